-- The gate: which model a request names, whose that is, and whether the tenant may use it. One lookup, whatever the number of
-- adapters. An error in here leaves the request without a route, which is an answer of 400 or 404: nothing passes unchecked.
-- Lines of TABLE: "/ROUTE STRATEGY REASON" (what the log says unless a picker says better), "@CLASS ,TENANT,TENANT," and
-- "NAME ROUTE CLASS".
local models, routes, classes = {}, {}, {}
for line in TABLE:gmatch("[^\n]+") do
  local first, rest = line:match("^(%S+) (.*)$")
  local mark = first:sub(1, 1)
  if mark == "/" then
    local strategy, reason = rest:match("^(%S+) (.*)$")
    routes[first:sub(2)] = { strategy, reason }
  elseif mark == "@" then
    classes[first:sub(2)] = rest
  else
    local route, class = rest:match("^(%S+) (%S+)$")
    models[first] = { route, class }
  end
end

local TOKENS, LOOSE = 200000, 4194304  -- brackets and strings, and bytes outside of strings: what a thread may be kept busy with
local LARGE = 4194304  -- bytes of a body after which Lua's garbage is collected at once
local ESCAPED = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }
local CLOSES = { [91] = 93, [123] = 125 }

local function decoded(raw)
  if not raw:find("\\", 1, true) then return raw end
  return (raw:gsub("\\(.)(%x?%x?%x?%x?)", function(kind, digits)
    if kind ~= "u" then return (ESCAPED[kind] or kind) .. digits end
    local code = tonumber(digits, 16)
    return code and code < 128 and string.char(code) or "\255"  -- what is not ASCII is in no name
  end))
end

local function string_end(text, from)
  local stop, slash = from, from
  repeat
    stop = text:find('"', stop + 1, true)
    if stop == nil then return nil end
    slash = stop - 1
    while text:byte(slash) == 92 do slash = slash - 1 end
  until (stop - slash) % 2 == 1
  return stop
end

-- The member "model" of a JSON object, or nil and why. It reads structure, not every scalar: what it lets pass and is no JSON,
-- engines refuse. A name that comes twice is refused, because readers differ in which one counts.
function model_of(text)
  local depth, at, tokens, loose, seen = 0, 1, 0, 0, 0
  local stack, key, model, quote = {}, nil, nil, 0
  while true do
    if quote and quote < at then quote = text:find('"', at, true) end
    if (quote or #text) - at > LOOSE then return nil, "the body has too many parts" end
    local token = text:find('["%[%]{}]', at)
    if token == nil then break end
    local gap = token > at and text:sub(at, token - 1) or ""
    tokens, loose = tokens + 1, loose + #gap
    if tokens > TOKENS or loose > LOOSE then return nil, "the body has too many parts" end
    local byte = text:byte(token)
    if depth == 0 and (at > 1 or byte ~= 123 or gap:find("%S")) or gap:find("[^%s,:%w.+-]") or gap:find(",%s*,") then
      return nil, "the body is no JSON object"
    end
    at = token + 1
    if byte == 34 then
      local stop = string_end(text, token)
      if stop == nil then return nil, "the body is no JSON object" end
      at = stop + 1
      if depth == 1 then
        if text:find("^%s*:", at) then
          key = stop - token < 64 and decoded(text:sub(token + 1, stop - 1)) or nil
          if key == "model" then seen = seen + 1 end
        else
          if key == "model" and stop - token < 1000 then model = decoded(text:sub(token + 1, stop - 1)) end
          key = nil
        end
      end
    elseif CLOSES[byte] then
      depth = depth + 1
      stack[depth] = CLOSES[byte]
      if depth == 2 then key = nil end
    else
      if stack[depth] ~= byte or gap:find("[,:]%s*$") then return nil, "the body is no JSON object" end
      depth = depth - 1
      if depth == 0 then break end
    end
  end
  if depth > 0 or tokens == 0 or text:find("%S", at) then return nil, "the body is no JSON object" end
  if seen > 1 then return nil, "the body names its model twice" end
  if model == nil then return nil, "the body names no model" end
  return model
end

local function refuse(handle, status, anthropic_type, code, message)
  local body
  if (handle:headers():get(":path") or ""):find("^/v1/messages") then
    body = '{"type":"error","error":{"type":"' .. anthropic_type .. '","message":"' .. message .. '"}}'
  else
    body = '{"error":{"message":"' .. message .. '","type":"invalid_request_error","param":"model","code":"' .. code .. '"}}'
  end
  handle:streamInfo():dynamicMetadata():set("gateway", "reason", code)
  handle:respond({ [":status"] = status, ["content-type"] = "application/json" }, body)
end

local function quoted(name)  -- for a JSON string; what is neither printable nor plain becomes a question mark
  return (name:sub(1, 200):gsub('[%c"\\\128-\255]', "?"))
end

function envoy_on_request(handle)
  if handle:headers():get(":method") ~= "POST" then
    handle:clearRouteCache()  -- a list of models is the tenant's, who was not known when the route was chosen
    return
  end
  local path = (handle:headers():get(":path") or ""):match("^[^?]*")
  if not PATHS[path] then return end  -- the route answers that there is no such path
  local body = handle:body()
  local text = body and body:getBytes(0, body:length()) or ""
  local name, wrong = model_of(text)
  if #text > LARGE then
    text = nil
    collectgarbage()
  end
  if name == nil then return refuse(handle, "400", "invalid_request_error", "invalid_body", wrong) end
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set("gateway", "model", quoted(name))
  local found = models[name]
  if found == nil then
    return refuse(handle, "404", "not_found_error", "model_not_found", "there is no model `" .. quoted(name) .. "` here")
  end
  local tenants = classes[found[2]]
  local tenant = handle:headers():get("x-tenant") or ""
  if tenants ~= nil and not tenants:find("," .. tenant .. ",", 1, true) then
    local message = "model `" .. quoted(name) .. "` is not for tenant `" .. quoted(tenant) .. "`"
    return refuse(handle, "403", "permission_error", "model_not_permitted", message)
  end
  metadata:set("gateway", "route", found[1])
  metadata:set("gateway", "strategy", routes[found[1]][1])
  metadata:set("gateway", "reason", routes[found[1]][2])
  handle:clearRouteCache()
end
