-- Lets the TTLs of items begin again; those without one stay as they are.
-- KEYS[1] items   KEYS[2] paths   KEYS[3] expiry
-- ARGV[1] how many expired items to remove at most   ARGV[2…] paths
-- Answers 1
local most = tonumber(ARGV[1])
sweep(most)
for i = 2, #ARGV do
  local path = ARGV[i]
  local packed = not expired(path) and redis.call('HGET', items, path)
  local ttl = packed and cmsgpack.unpack(packed)[3] or 0
  if ttl > 0 then redis.call('ZADD', expiry, now + ttl, path) end
end
age()
return 1
