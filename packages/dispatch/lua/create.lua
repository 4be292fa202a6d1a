-- Makes a thread without runs. One that is there stays as it is. Uses thread.lua.
-- KEYS[1…6], ARGV[1…3] as thread.lua has them
-- ARGV[4] owner   ARGV[5] metadata, JSON
-- Answers {'deleting'} · {'there', record, state} · {'created', record, state}
local owner, metadata = ARGV[4], ARGV[5]
if is_deleting() then return {'deleting'} end
if is_there() then return {'there', record(), state()} end
make(owner)
redis.call('HSET', thread, 'metadata', metadata)
tell('created', '')
return {'created', record(), state()}
