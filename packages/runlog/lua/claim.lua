-- Takes the run for a new attempt, which from here on is the only one that can write.
-- KEYS[1] run hash   KEYS[2] log
-- ARGV[1] now, ms since 1970   ARGV[2] TTL while nothing happens, ms
-- Answers {'missing'} · {'ended', status} · {'claimed', attempt, head, run as field, value, …}
local run = redis.call('HMGET', KEYS[1], 'status', 'head', 'fence')
local status = run[1]
if not status then return {'missing'} end
if status == 'completed' or status == 'interrupted' or status == 'cancelled' or status == 'failed' then
  return {'ended', status}
end
-- A fence that is still up is that of a worker that neither ended the run nor gave it back: it died, or hangs.
if run[3] ~= '' then redis.call('HINCRBY', KEYS[1], 'crashes', 1) end
local attempt = redis.call('HINCRBY', KEYS[1], 'attempt', 1)
redis.call('HSET', KEYS[1], 'fence', attempt)
if status == 'queued' then redis.call('HSET', KEYS[1], 'status', 'running') end
redis.call('HSETNX', KEYS[1], 'started', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return {'claimed', attempt, tonumber(run[2]), redis.call('HGETALL', KEYS[1])}
