-- Puts right what is counted of an owner's runs. Idempotent. One that is not counted does not become so.
-- KEYS[1] active   KEYS[2] bytes   KEYS[3] due   KEYS[4] all runs of the owner, by time; the others as in admit.lua
-- ARGV[1] ms that the keys outlive the last run
-- ARGV[2…] for each run four: runId · 'active', 'ended' or 'gone' (it has expired) · its bytes; 0 leaves them as they are
-- · when it expires, ms since 1970
-- Answers how many places and sizes were given back
local active, bytes, due, runs = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local freed = 0
for i = 2, #ARGV, 4 do
  local run, state, size, expires = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3]
  if state ~= 'active' then freed = freed + redis.call('ZREM', active, run) end
  local was = tonumber(redis.call('HGET', bytes, run) or nil)
  if state == 'gone' then redis.call('ZREM', runs, run) end
  if state == 'gone' or not was then
    redis.call('ZREM', due, run)
    if was then
      redis.call('HDEL', bytes, run)
      redis.call('HINCRBY', bytes, 'sum', -was)
      freed = freed + 1
    end
  else
    redis.call('ZADD', due, expires, run)
    if size > 0 and size ~= was then
      redis.call('HSET', bytes, run, size)
      redis.call('HINCRBY', bytes, 'sum', size - was)
      if size < was then freed = freed + 1 end
    end
  end
end
local last = redis.call('ZRANGE', due, -1, -1, 'WITHSCORES')[2]
if last then
  for i = 1, 3 do redis.call('PEXPIREAT', KEYS[i], string.format('%.0f', tonumber(last) + tonumber(ARGV[1]))) end
else
  redis.call('DEL', bytes)
end
return freed
