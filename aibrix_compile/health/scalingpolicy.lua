-- A ScalingPolicy is healthy while its scaler decides. Scaling up or down is its work and scaled to zero is a size, so
-- neither is Progressing.
local health = {status = "Progressing", message = "the scaler has not reported yet"}
local status = obj.status
if status == nil or next(status) == nil then
  return health
end
if (status.observedGeneration or 0) < (obj.metadata.generation or 0) then
  health.message = "the scaler has not read this change yet"
  return health
end
for _, condition in ipairs(status.conditions or {}) do
  if condition.type == "Degraded" and condition.status == "True" then
    health.status = "Degraded"
    health.message = condition.message or condition.reason or "degraded"
    return health
  end
end
local desired, ready = 0, 0
for _, target in ipairs(status.targets or {}) do
  desired = desired + (target.desired or 0)
  ready = ready + (target.ready or 0)
end
health.status = "Healthy"
if desired == 0 then
  health.message = "scaled to zero"
else
  health.message = ready .. " of " .. desired .. " replicas are ready"
end
return health
