-- Lets a run into its thread: first in line, or behind those that are there. Makes the thread if there is none.
-- Idempotent: a run that is in line already keeps its place.
-- KEYS[1] thread hash   KEYS[2] line of active runs   KEYS[3] all runs of the thread, by time
-- ARGV[1] runId   ARGV[2] owner   ARGV[3] '1': only if nobody is in line
-- ARGV[4] how many may be in line   ARGV[5] '1': only into a thread that is there
-- Answers {'none'} there is no thread · {'busy', runId of the first in line} · {'full', the same}
-- · {'in', runIds before this one…}
local thread, queue, runs = KEYS[1], KEYS[2], KEYS[3]
local run, owner, only_if_idle, max, only_if_there = ARGV[1], ARGV[2], ARGV[3] == '1', tonumber(ARGV[4]), ARGV[5] == '1'
local exists = redis.call('EXISTS', thread) == 1
if only_if_there and not exists then return {'none'} end
local line = redis.call('LRANGE', queue, 0, -1)
local before = {'in'}
for _, each in ipairs(line) do
  if each == run then return before end
  before[#before + 1] = each
end
if only_if_idle and #line > 0 then return {'busy', line[1]} end
if #line >= max then return {'full', line[1]} end
if not exists then redis.call('HSET', thread, 'owner', owner, 'created', now()) end
redis.call('RPUSH', queue, run)
add(runs, run)
return before
