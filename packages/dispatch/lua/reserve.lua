-- Takes a thread's id for a copy that is to be made. To everybody it is a thread that is being deleted, until it is there
-- whole. Uses thread.lua.
-- KEYS[1…6], ARGV[1…3] as thread.lua has them
-- ARGV[4] owner
-- Answers {'deleting'} · {'there'} · {'reserved', state}
local owner = ARGV[4]
if is_deleting() then return {'deleting'} end
if is_there() then return {'there'} end
make(owner)
redis.call('HSET', thread, 'deleting', now(), 'copying', 1)
return {'reserved', state()}
