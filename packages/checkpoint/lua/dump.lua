-- Takes a thread's checkpoints out as they are at one moment, for restore.lua.
-- KEYS[1] fence   KEYS[2] head   KEYS[3] checkpoints   KEYS[4] blobs   KEYS[5] writes   KEYS[6] index
-- Answers {dump of KEYS[2], …, dump of KEYS[6]}, null for a key that is not there
local _, head, checkpoints, blobs, writes, index = unpack(KEYS)
local dumps = {}
for i, key in ipairs({ head, checkpoints, blobs, writes, index }) do dumps[i] = redis.call('DUMP', key) end
return dumps
