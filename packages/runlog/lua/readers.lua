-- Says for how long from now on a gateway counts as one that somebody reads the run on. The key is there as long as any
-- gateway does.
-- KEYS[1] run hash   KEYS[2] readers
-- ARGV[1] gateway   ARGV[2] for how long, ms
-- Answers 1 done · 0 the run has ended, or is not there: nobody need say so any more
local key, readers = KEYS[1], KEYS[2]
local gateway, ms = ARGV[1], tonumber(ARGV[2])
local status = redis.call('HGET', key, 'status')
if not status or endings[status] then
  redis.call('DEL', readers)
  return 0
end
local time = now()
redis.call('ZADD', readers, time + ms, gateway)
redis.call('ZREMRANGEBYSCORE', readers, '-inf', time)
local last = redis.call('ZREVRANGE', readers, 0, 0, 'WITHSCORES')
redis.call('PEXPIREAT', readers, string.format('%.0f', last[2]))
return 1
