"""The command line. `main` joins the commands of all packages; the others are this package's own."""
