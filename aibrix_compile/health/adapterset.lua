-- An AdapterSet is as healthy as its controller says, once the controller has read this generation of it.
local health = {status = "Progressing", message = "the adapters controller has not reported yet"}
local status = obj.status
if status == nil or next(status) == nil then
  return health
end
if (status.observedGeneration or 0) < (obj.metadata.generation or 0) then
  health.message = "the adapters controller has not read this change yet"
  return health
end
local found = {}
for _, condition in ipairs(status.conditions or {}) do
  found[condition.type] = condition
end
local function is(name)
  return found[name] ~= nil and found[name].status == "True"
end
if is("Degraded") then
  health.status = "Degraded"
  health.message = found.Degraded.message or found.Degraded.reason or "degraded"
  return health
end
if is("Progressing") then
  health.message = found.Progressing.message or found.Progressing.reason or "adapters are being loaded"
  return health
end
-- Not Ready alone is no fault: with no replicas there is nothing to load adapters into.
local counts = status.counts or {}
health.status = "Healthy"
health.message = (counts.loaded or 0) .. " of " .. (counts.desired or 0) .. " adapters are loaded"
return health
