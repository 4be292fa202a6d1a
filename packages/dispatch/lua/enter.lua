-- Lets a run into its thread: first in line, or behind those that are there. Makes the thread if there is none.
-- Idempotent: a run that is in line already keeps its place.
-- KEYS[1] thread hash   KEYS[2] line of active runs   KEYS[3] all runs of the thread, by time
-- ARGV[1] runId   ARGV[2] owner   ARGV[3] now, ms since 1970   ARGV[4] '1': only if nobody is in line
-- Answers {'foreign'} it is another owner's · {'busy', runId of the first in line} · {'in', runIds before this one…}
local owner = redis.call('HGET', KEYS[1], 'owner')
if owner and owner ~= ARGV[2] then return {'foreign'} end
local line = redis.call('LRANGE', KEYS[2], 0, -1)
local before = {'in'}
for _, runId in ipairs(line) do
  if runId == ARGV[1] then return before end
  before[#before + 1] = runId
end
if ARGV[4] == '1' and #line > 0 then return {'busy', line[1]} end
if not owner then redis.call('HSET', KEYS[1], 'owner', ARGV[2], 'created', ARGV[3]) end
redis.call('RPUSH', KEYS[2], ARGV[1])
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
return before
