-- Lets a run into its thread: first in line, or behind those that are there. Makes the thread if there is none.
-- Idempotent: a run that is in line already keeps its place, and nothing is told. Uses thread.lua.
-- KEYS[1…6], ARGV[1…3] as thread.lua has them
-- ARGV[4] runId   ARGV[5] owner   ARGV[6] '1': only if nobody is in line
-- ARGV[7] how many may be in line   ARGV[8] '1': only into a thread that is there, and only for the first time
-- ARGV[9] its agent   ARGV[10] the run as JSON   ARGV[11] its queue, '' where that is not known
-- Answers {'none'} there is no thread · {'deleting'} it is being deleted · {'left'} it was in line, and is no more
-- · {'busy', runId of the first in line} · {'full', the same} · {'in', number in the thread or '', runIds before this one, state}
local run, owner, only_if_idle, max, is_careful = ARGV[4], ARGV[5], ARGV[6] == '1', tonumber(ARGV[7]), ARGV[8] == '1'
local agent, json, queue = ARGV[9], ARGV[10], ARGV[11]
local exists = is_there()
if is_careful and not exists then return {'none'} end
if is_deleting() then return {'deleting'} end
local before, is_in = {}, false
for _, each in ipairs(redis.call('LRANGE', line, 0, -1)) do
  if each == run then
    is_in = true
    break
  end
  before[#before + 1] = each
end
if not is_in then
  if is_careful and redis.call('ZSCORE', runs, run) then return {'left'} end
  if only_if_idle and #before > 0 then return {'busy', before[1]} end
  if #before >= max then return {'full', before[1]} end
  if exists then complete() else
    make(owner)
    tell('created', '')
  end
  touch()
  if not redis.call('ZSCORE', runs, run) then
    local ordinal = redis.call('HINCRBY', thread, 'runs', 1)
    redis.call('HSET', thread, 'agent', agent, 'in:' .. run, ordinal .. ' ' .. agent)
  end
  if queue ~= '' then redis.call('HSET', thread, 'queue:' .. queue, 1) end
  redis.call('RPUSH', line, run)
  add(runs, run)
  tell('run', ',"run":' .. numbered(run, json))
end
local ordinal = string.match(redis.call('HGET', thread, 'in:' .. run) or '', '^%d+') or ''
return {'in', ordinal, before, state()}
