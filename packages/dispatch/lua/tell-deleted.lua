-- Tells that a thread is deleted, once. Uses thread.lua.
-- KEYS[1…6], ARGV[1…3] as thread.lua has them
-- Answers {} there is no thread that is being deleted · {birth, '1' where it was ever told of, the event}
if not is_deleting() then return {} end
-- A write that frees comes first: where Redis is full it lets a script write on, and who deletes is to get through.
redis.call('HDEL', thread, '')
local has = redis.call('HMGET', thread, 'birth', 'copying')
local event = '{"event":"deleted","threadId":' .. cjson.encode(thread_id) .. '}'
if not has[2] and redis.call('HGET', told, 'status') ~= 'deleted' then
  append_event(told, events, watch, fresh_epoch, event, '', true)
end
return {has[1], has[2] and '' or '1', event}
