-- Deletes a thread's checkpoints. The fence stays: it belongs to who holds the thread.
-- KEYS[1] fence   KEYS[2] head   KEYS[3] checkpoints   KEYS[4] blobs   KEYS[5] writes   KEYS[6] index
-- ARGV[1] fence token, '' for none
-- Answers 1 done · -1 stale attempt, nothing was deleted
local fence, head, checkpoints, blobs, writes, index = unpack(KEYS)
local token = ARGV[1]
if token ~= '' and redis.call('GET', fence) ~= token then return -1 end
redis.call('UNLINK', head, checkpoints, blobs, writes, index)
return 1
