-- Takes a run that has ended out of its thread's line, and its worker's right to write checkpoints with it. Tells how it
-- ended if it was in line. Uses thread.lua.
-- KEYS[1…6], ARGV[1…3] as thread.lua has them
-- KEYS[7] fence: "<runId>:<fence>"
-- ARGV[4] runId   ARGV[5] the run as JSON, '' where it has expired   ARGV[6] how the thread stands from here on, '' as it did
-- ARGV[7] how many messages its head has, '' as many as it had
-- Answers {the runId that is first in line now, or '' where nobody is, state}
local holder = KEYS[7]
local run, json, stands, messages = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local held = redis.call('GET', holder)
if held and string.sub(held, 1, #run + 1) == run .. ':' then redis.call('DEL', holder) end
if redis.call('LREM', line, 0, run) > 0 and is_there() then
  complete()
  touch()
  if stands ~= '' then redis.call('HSET', thread, 'status', stands) end
  if messages ~= '' then redis.call('HSET', thread, 'messages', messages) end
  if json == '' then
    local agent = string.match(redis.call('HGET', thread, 'in:' .. run) or '', '^%d+ (.*)$')
    json = '{"runId":' .. cjson.encode(run) .. ',"agent":' .. cjson.encode(agent or redis.call('HGET', thread, 'agent') or '')
      .. ',"status":"failed","error":{"name":"RunExpiredError","message":"the run expired before it ended"}}'
  end
  json = numbered(run, json)
  redis.call('HDEL', thread, 'in:' .. run)
  tell('run', ',"run":' .. json)
end
return {redis.call('LINDEX', line, 0) or '', state()}
