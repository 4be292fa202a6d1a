-- Takes a thread out as it is, for move-in.lua, if it is the owner's; it stays where it is.
-- KEYS[1] thread hash   KEYS[2…] all else that a thread has
-- ARGV[1] owner
-- Answers {dump of KEYS[1], …}, null for a key that is not there; {} where it is not the owner's
local thread, owner = KEYS[1], ARGV[1]
if redis.call('HGET', thread, 'owner') ~= owner then return {} end
local dumps = {}
for i, key in ipairs(KEYS) do dumps[i] = redis.call('DUMP', key) end
return dumps
