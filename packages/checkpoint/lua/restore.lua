-- Puts what dump.lua answered under another thread's keys.
-- KEYS[1] fence   KEYS[2] head   KEYS[3] checkpoints   KEYS[4] blobs   KEYS[5] writes   KEYS[6] index
-- ARGV[1] fence token, '' for none   ARGV[2] generation of the copy's list elements: from here on its numbers are its own
-- ARGV[3…7] the dumps, '' for a key that is not there
-- Answers 1 done · -1 stale attempt · -4 the thread has checkpoints already; on a negative answer nothing was written
local fence, head, checkpoints, blobs, writes, index = unpack(KEYS)
local token, generation = ARGV[1], ARGV[2]
if token ~= '' and redis.call('GET', fence) ~= token then return -1 end
if redis.call('EXISTS', head, checkpoints, blobs, writes, index) > 0 then return -4 end
for i = 2, 6 do
  local key, dump = KEYS[i], ARGV[i + 1]
  if dump ~= '' then redis.call('RESTORE', key, 0, dump) end
end
if redis.call('HEXISTS', blobs, '#') == 1 then redis.call('HSET', blobs, '#', generation) end
return 1
