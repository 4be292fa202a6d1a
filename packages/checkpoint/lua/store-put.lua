-- Stores and deletes items, all of them or none. An item that is there keeps the time of its creation.
-- KEYS[1] items   KEYS[2] paths   KEYS[3] expiry
-- ARGV[1] how many expired items to remove at most
-- ARGV[2…] triples: path, value as JSON ('' deletes), TTL in ms ('0' for none)
-- Answers 1
local most = tonumber(ARGV[1])
sweep(most)
for i = 2, #ARGV, 3 do
  local path, json, ttl = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  if json == '' then
    remove(path)
  else
    local was = not expired(path) and redis.call('HGET', items, path)
    local created = was and cmsgpack.unpack(was)[1] or now
    redis.call('HSET', items, path, cmsgpack.pack({ created, now, ttl, json }))
    redis.call('ZADD', paths, 0, path)
    if ttl > 0 then redis.call('ZADD', expiry, now + ttl, path) else redis.call('ZREM', expiry, path) end
  end
end
age()
return 1
