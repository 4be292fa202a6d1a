-- Counts a run that is to start among its owner's, if there is room. Idempotent: a run that is counted already stays so,
-- whether it has ended or not.
-- KEYS[1] active: sorted set of runs that have not ended, by when they started   KEYS[2] bytes: hash of what is stored of
-- each run, and their `sum`   KEYS[3] due: sorted set of runs, by when they expire   KEYS[4] threads: hash of what was
-- written to each thread by hand, and its `sum`
-- ARGV[1] runId   ARGV[2] its bytes   ARGV[3] now, ms since 1970   ARGV[4] when it expires if nothing happens
-- ARGV[5] how many may be active; 0: any   ARGV[6] bytes that may be stored; 0: any   ARGV[7] ms that the keys outlive
-- the last run
-- Answers {'in', runs that should have expired by now…} · {'runs', how many are active}
-- · {'bytes', what is stored, when the next run expires or ''}
local active, bytes, due, threads = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local run, size, now, max_runs, max_bytes = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[5]), tonumber(ARGV[6])
local was = tonumber(redis.call('HGET', bytes, run) or nil)
if was and ARGV[8] ~= '1' then return {'in'} end
if was then
  redis.call('ZREM', active, run)
  redis.call('ZREM', due, run)
  redis.call('HDEL', bytes, run)
  redis.call('HINCRBY', bytes, 'sum', -was)
end
local count = redis.call('ZCARD', active)
if max_runs > 0 and count >= max_runs then return {'runs', tostring(count)} end
local sum = tonumber(redis.call('HGET', bytes, 'sum') or 0) + tonumber(redis.call('HGET', threads, 'sum') or 0)
if max_bytes > 0 and sum + size > max_bytes then
  return {'bytes', string.format('%.0f', sum), redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')[2] or ''}
end
redis.call('ZADD', active, now, run)
redis.call('HSET', bytes, run, size)
redis.call('HINCRBY', bytes, 'sum', size)
redis.call('ZADD', due, ARGV[4], run)
local last = tonumber(redis.call('ZRANGE', due, -1, -1, 'WITHSCORES')[2])
for i = 1, 3 do redis.call('PEXPIREAT', KEYS[i], string.format('%.0f', last + tonumber(ARGV[7]))) end
return {'in', unpack(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, 4))}
