-- Notes that a thread's head moved without a run. Uses thread.lua.
-- KEYS[1…6], ARGV[1…3] as thread.lua has them
-- ARGV[4] how the thread stands   ARGV[5] how many messages its head has
-- Answers {'none'} · {'deleting'} · {'done', record, state}
local stands, messages = ARGV[4], ARGV[5]
if not is_there() then return {'none'} end
if is_deleting() then return {'deleting'} end
complete()
touch()
redis.call('HSET', thread, 'status', stands, 'messages', messages)
tell('head', '')
return {'done', record(), state()}
