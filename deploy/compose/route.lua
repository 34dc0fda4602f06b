-- Sends every radiograph that arrives to the node. What the node itself delivers is not sent back to it.
local NODE = "radnode"
local NODE_AE_TITLE = "RADNODE"
local ROUTED = { CR = true, DX = true }

function OnStoredInstance(instanceId, tags, metadata, origin)
  if origin["RequestOrigin"] == "Lua" or origin["RemoteAet"] == NODE_AE_TITLE then
    return
  end
  if ROUTED[tags["Modality"]] then
    SendToModality(instanceId, NODE)
  end
end
