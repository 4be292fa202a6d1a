-- Put before the scripts that tell: appends events to a log that is read as a run's is. Uses incarnation.lua.

-- Which Redis it is does not change during a script: it is asked once.
local ask_incarnation, is_incarnation = incarnation, nil
incarnation = function()
  is_incarnation = is_incarnation or ask_incarnation()
  return is_incarnation
end

-- How many events a log keeps.
local kept_events = 100

-- Appends an event and publishes it. The log gets a new epoch where there is none, and where Redis may have lost writes.
-- log: hash   events: stream   watch: channel   fresh: the epoch, should it be a new one   json: the event
-- version: '' or that of the thread's record, for the owner's log   ends: whether it is the last event
local function append_event(log, events, watch, fresh, json, version, ends)
  local was = redis.call('HMGET', log, 'head', 'first', 'incarnation')
  if not was[1] then
    redis.call('DEL', events)
    redis.call('HSET', log, 'status', 'open', 'epoch', fresh, 'incarnation', incarnation())
  else
    renewed(log, watch, was[3], fresh)
  end
  local offset, first = tonumber(was[1] or 0) + 1, tonumber(was[2] or 1)
  local body = '[' .. json .. ']'
  redis.call('XADD', events, offset .. '-0', 'n', 1, 'b', body, 'v', version)
  if offset - first >= kept_events then
    first = offset - kept_events + 1
    redis.call('XTRIM', events, 'MINID', '=', first .. '-0')
  end
  redis.call('HSET', log, 'head', offset, 'first', first, 'status', ends and 'deleted' or 'open')
  local epoch = redis.call('HGET', log, 'epoch')
  redis.call('PUBLISH', watch, offset .. ':1:' .. epoch .. (ends and ':e\n' or '\n') .. body)
end

