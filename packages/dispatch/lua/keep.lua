-- Counts what is written to a thread by hand, if there is room; a negative number gives it back.
-- KEYS[1] bytes   KEYS[2] due   KEYS[3] threads; as in admit.lua
-- ARGV[1] threadId   ARGV[2] bytes   ARGV[3] bytes that may be stored; 0: any
-- Answers {'in'} · {'bytes', what is stored, when the next run expires or ''}
local bytes, due, threads, thread, size, max = KEYS[1], KEYS[2], KEYS[3], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local sum = tonumber(redis.call('HGET', bytes, 'sum') or 0) + tonumber(redis.call('HGET', threads, 'sum') or 0)
if max > 0 and size > 0 and sum + size > max then
  return {'bytes', string.format('%.0f', sum), redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')[2] or ''}
end
-- A thread that was deleted meanwhile has given back all that it had. Not -was: of nothing that is -0, which HINCRBY refuses.
local was = tonumber(redis.call('HGET', threads, 'thread:' .. thread) or 0)
if was + size < 0 then size = 0 - was end
-- A write that frees comes first: where Redis is full it lets a script write on, and who deletes is to get through.
if size < 0 then redis.call('HDEL', threads, '') end
redis.call('HINCRBY', threads, 'sum', size)
if redis.call('HINCRBY', threads, 'thread:' .. thread, size) == 0 then
  redis.call('HDEL', threads, 'thread:' .. thread)
end
return {'in'}
