-- Stores a checkpoint and the channel values that are new with it, and moves the thread's head to it.
-- KEYS[1] fence   KEYS[2] head   KEYS[3] checkpoints   KEYS[4] blobs   KEYS[5] writes   KEYS[6] index
-- ARGV[1] fence token, '' for none   ARGV[2] namespace   ARGV[3] checkpoint id   ARGV[4] parent's id, '' for none
-- ARGV[5] run id, '' for none   ARGV[6] '1' moves the head, '0' leaves it
-- ARGV[7] '' , or '=' and the id that the head must be at ('=' alone: no head)
-- ARGV[8] checkpoint   ARGV[9] metadata   ARGV[10] number n of channels
-- ARGV[11…] n pairs channel, version; then triples channel, version, value for those that are new
-- Answers 1 done · -1 stale attempt · -3 the head is elsewhere; on a negative answer nothing was written
if ARGV[1] ~= '' and redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local ns, id, run = ARGV[2], ARGV[3], ARGV[5]
if ARGV[7] ~= '' then
  local at = redis.call('HGET', KEYS[2], ns) or ''
  -- A head at this very checkpoint is a put that is sent again because its answer was lost.
  if '=' .. at ~= ARGV[7] and at ~= id then return -3 end
end

local versions = {}
local new = 11 + 2 * tonumber(ARGV[10])
for i = 11, new - 1 do versions[#versions + 1] = ARGV[i] end
for i = new, #ARGV, 3 do
  redis.call('HSET', KEYS[4], ns .. '\0' .. ARGV[i] .. '\0' .. ARGV[i + 1], ARGV[i + 2])
end

local field = ns .. '\0' .. id
redis.call('HSET', KEYS[3], field, cmsgpack.pack({ ARGV[4], run, ARGV[8], ARGV[9], versions }))
redis.call('ZADD', KEYS[6], 0, 'c\0' .. field)
if run ~= '' then redis.call('ZADD', KEYS[6], 0, 'r\0' .. run .. '\0c\0' .. field) end
if ARGV[6] == '1' then redis.call('HSET', KEYS[2], ns, id) end
return 1
