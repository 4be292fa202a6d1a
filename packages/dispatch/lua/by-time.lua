-- Put before the scripts that keep runs in the order in which they came, whichever gateway they came by.

-- ms since 1970, by Redis' clock
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Adds a run to a sorted set of runs, behind all that are there, though they be of the same ms, or that clock was set back.
local function add(runs, run)
  local last = redis.call('ZRANGE', runs, -1, -1, 'WITHSCORES')[2]
  local score = now()
  if last and tonumber(last) >= score then score = tonumber(last) + 1 end
  redis.call('ZADD', runs, 'NX', score, run)
end

