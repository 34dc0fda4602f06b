"""The DICOM listener's server, as the settings want it."""

from __future__ import annotations

from db.errors import ConfigError
from node.settings import Settings
from node.tls import ServerTls
from node.upper_layer.association import Services
from node.upper_layer.server import Server


def start(settings: Settings, services: Services) -> Server:
    """Bind and serve in background threads. Raises ConfigError where the address cannot be bound."""
    try:
        server = Server(settings.dicom_host, settings.dicom_port, settings.limits, services, ServerTls(settings.tls))
    except OSError as error:
        raise ConfigError(
            f"{settings.dicom_host}:{settings.dicom_port} cannot be bound ({error.strerror}); "
            "is another node running? see dicom_host and dicom_port"
        ) from error
    server.start()
    return server
