-- Reads items by their paths.
-- KEYS[1] items   KEYS[2] paths   KEYS[3] expiry
-- ARGV[1] how many expired items to remove at most   ARGV[2] '1': their TTLs begin again   ARGV[3…] paths
-- Answers for each path {value as JSON, created, updated (ms since 1970)}, or null
local most, refresh = tonumber(ARGV[1]), ARGV[2] == '1'
sweep(most)
local answer, refreshed = {}, false
for i = 3, #ARGV do
  local path = ARGV[i]
  local packed = not expired(path) and redis.call('HGET', items, path)
  if packed then
    local created, updated, ttl, json = unpack(cmsgpack.unpack(packed))
    answer[#answer + 1] = { json, created, updated }
    if refresh and ttl > 0 then
      redis.call('ZADD', expiry, now + ttl, path)
      refreshed = true
    end
  else
    answer[#answer + 1] = false
  end
end
if refreshed then age() end
return answer
