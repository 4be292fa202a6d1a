-- Put before the scripts about a thread: its record, and what its watchers are told. Uses by-time.lua, iso.lua,
-- incarnation.lua and tell.lua. All of them begin with these keys and arguments:
-- KEYS[1] thread hash   KEYS[2] line of active runs   KEYS[3] all runs of the thread, by time
-- KEYS[4] heads of its checkpoints, by namespace   KEYS[5] told: hash of its log   KEYS[6] events: stream of its log
-- ARGV[1] threadId   ARGV[2] the epoch of its log, should it get a new one   ARGV[3] watch: channel of its log
--
-- The hash has: owner · created, updated (ms) · birth: the name of this life of the thread, another when one comes back
-- by its id · version: grows with every change · shown: the version that its owner's index is known to have · agent ·
-- metadata (JSON) · runs: how many there have been · status: as it stands when no run is active · messages ·
-- deleting (ms): since when · queue:<name>, of each queue that a run of it was on · in:<runId>, of each run in line:
-- '<ordinal> <agent>'
local thread, line, runs, heads, told, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local thread_id, fresh_epoch, watch = ARGV[1], ARGV[2], ARGV[3]
-- How many active runs a record names.
local named_runs = 100

local function make(owner)
  local at = now()
  redis.call('HSET', thread, 'owner', owner, 'created', at, 'updated', at, 'birth', fresh_epoch, 'runs', 0)
end

-- A thread of before there were records gets what it lacks.
local function complete()
  if redis.call('HSETNX', thread, 'birth', fresh_epoch) == 0 then return end
  redis.call('HSETNX', thread, 'updated', redis.call('HGET', thread, 'created') or now())
  redis.call('HSETNX', thread, 'runs', redis.call('ZCARD', runs))
end

local function is_there() return redis.call('EXISTS', thread) == 1 end
local function is_deleting() return redis.call('HEXISTS', thread, 'deleting') == 1 end

local function status()
  if redis.call('LLEN', line) > 0 then return 'busy' end
  return redis.call('HGET', thread, 'status') or 'idle'
end

-- The record as JSON.
local function record()
  local has = redis.call('HMGET', thread, 'created', 'updated', 'agent', 'metadata', 'messages', 'runs')
  local active = redis.call('LRANGE', line, 0, named_runs - 1)
  for i, run in ipairs(active) do active[i] = cjson.encode(run) end
  local at = redis.call('HGET', heads, '')
  local created = has[1] or '0'
  return '{"threadId":' .. cjson.encode(thread_id) .. ',"status":"' .. status()
    .. '","createdAt":"' .. iso(tonumber(created)) .. '","updatedAt":"' .. iso(tonumber(has[2] or created)) .. '"'
    .. (has[3] and ',"agent":' .. cjson.encode(has[3]) or '')
    .. ',"metadata":' .. (has[4] or '{}') .. ',"checkpointId":' .. (at and cjson.encode(at) or 'null')
    .. ',"messages":' .. (has[5] or '0') .. ',"runs":' .. (has[6] or redis.call('ZCARD', runs))
    .. ',"active":[' .. table.concat(active, ',') .. ']}'
end

-- Tells a change of the record. `more`: JSON of further fields of the event, with a comma first. `quiet`: the owner's log
-- is not told.
local function tell(event, more, quiet)
  local known = redis.call('HGET', told, 'incarnation')
  -- Versions that were lost with writes may be known in the owner's slot: none of them is given out again.
  local version = redis.call('HINCRBY', thread, 'version', known and known ~= incarnation() and 1000 or 1)
  local json = '{"event":"' .. event .. '","thread":' .. record() .. more .. '}'
  append_event(told, events, watch, fresh_epoch, json, quiet and '' or version, false)
end

-- The thread changes now.
local function touch()
  local at, was = now(), tonumber(redis.call('HGET', thread, 'updated') or 0)
  redis.call('HSET', thread, 'updated', math.max(at, was))
end

-- A run as JSON, with its number in the thread where that is known.
local function numbered(run, json)
  if string.sub(json, 1, 11) == '{"ordinal":' then return json end
  local ordinal = string.match(redis.call('HGET', thread, 'in:' .. run) or '', '^%d+')
  return ordinal and '{"ordinal":' .. ordinal .. ',' .. string.sub(json, 2) or json
end

-- What the owner's index is to have: {birth, version, version that it has, updated, status, agent, and version, event
-- for each that it may not have}; {} where there is no thread.
local function state()
  if not is_there() then return {} end
  local has = redis.call('HMGET', thread, 'birth', 'version', 'shown', 'updated', 'agent', 'created')
  local version, shown = has[2] or '0', has[3] or '0'
  local answer = {has[1] or '', version, shown, has[4] or has[6] or '0', status(), has[5] or ''}
  if shown == version then return answer end
  local found, max = {}, '+'
  while max do
    local entries = redis.call('XREVRANGE', events, max, '-', 'COUNT', 4)
    max = nil
    for _, entry in ipairs(entries) do
      local of = tonumber(entry[2][6]) or math.huge
      if of <= tonumber(shown) then break end
      if of < math.huge then found[#found + 1] = {entry[2][6], string.sub(entry[2][4], 2, -2)} end
      if entry == entries[4] then max = '(' .. entry[1] end
    end
  end
  for i = #found, 1, -1 do
    answer[#answer + 1] = found[i][1]
    answer[#answer + 1] = found[i][2]
  end
  return answer
end

