-- Put before the scripts that write down when: ms since 1970, by Redis' clock. Those of gateways and workers may differ.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

