-- Put before the store's scripts, which all take the same keys: the time, and how items expire.
-- KEYS[1] items   KEYS[2] paths   KEYS[3] expiry
local items, paths, expiry = KEYS[1], KEYS[2], KEYS[3]
local time = redis.call('TIME')
-- ms since 1970
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function remove(path)
  redis.call('HDEL', items, path)
  redis.call('ZREM', paths, path)
  redis.call('ZREM', expiry, path)
end

-- Removes up to `most` of the items that have expired.
local backlog
local function sweep(most)
  local over = redis.call('ZRANGEBYSCORE', expiry, '-inf', now, 'LIMIT', 0, most)
  for _, path in ipairs(over) do remove(path) end
  backlog = #over == most
end

-- Whether an item has expired and the sweep has not come to it.
local function expired(path)
  local at = backlog and redis.call('ZSCORE', expiry, path)
  return at and tonumber(at) <= now
end

-- To be called after items were written: the keys go with the last item if all have a TTL, and stay if one has none.
local function age()
  local timed = redis.call('ZCARD', expiry)
  if timed > 0 and timed == redis.call('HLEN', items) then
    -- As a number: Redis may write a score with an exponent, and reads no time in that form.
    local last = tonumber(redis.call('ZRANGE', expiry, -1, -1, 'WITHSCORES')[2])
    for _, key in ipairs(KEYS) do redis.call('PEXPIREAT', key, last) end
  else
    for _, key in ipairs(KEYS) do redis.call('PERSIST', key) end
  end
end

