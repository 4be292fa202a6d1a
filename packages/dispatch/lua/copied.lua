-- The copy for which a thread's id was reserved is whole. Uses thread.lua.
-- KEYS[1…6], ARGV[1…3] as thread.lua has them
-- ARGV[4] the birth that was reserved   ARGV[5] metadata, JSON   ARGV[6] how the thread stands
-- ARGV[7] how many messages its head has
-- Answers {'none'} it was given up meanwhile · {'done', record, state}
local birth, metadata, stands, messages = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
if redis.call('HGET', thread, 'birth') ~= birth then return {'none'} end
if redis.call('HDEL', thread, 'copying') == 1 then
  redis.call('HDEL', thread, 'deleting')
  redis.call('HSET', thread, 'metadata', metadata, 'status', stands, 'messages', messages)
  touch()
  tell('created', '')
end
return {'done', record(), state()}
