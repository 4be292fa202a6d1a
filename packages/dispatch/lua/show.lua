-- Gives a thread its place among its owner's, and tells the owner's log what happened to it. What is known already, or is
-- older, changes nothing. Uses by-time.lua, incarnation.lua and tell.lua.
-- KEYS[1] listed: sorted set in the order of its bytes: '<status or nothing>\0<agent or nothing>\0<place>\0<threadId>'
-- KEYS[2] shown: hash, threadId → birth, version, place, status, agent; '' → the last number that was given out
-- KEYS[3] gone: births of threads that were deleted, by when
-- KEYS[4] told: hash of the log   KEYS[5] events: stream of the log
-- ARGV[1] threadId   ARGV[2] the epoch of the log, should it get a new one   ARGV[3] watch: channel of the log
-- ARGV[4] how long the log is kept, ms   ARGV[5] how long births that have gone are, ms
-- ARGV[6] '' or what must be known: '<birth> <version>'   ARGV[7] birth   ARGV[8] version   ARGV[9] updated, ms
-- ARGV[10] status, '' where it is deleted   ARGV[11] agent, '' for none
-- ARGV[12…] version, event, … to tell
-- Answers 1 · 0 this or a later version is known
local listed, shown, gone, told, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id, fresh_epoch, watch, ttl, gone_for, must_be = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local birth, version, updated, status, agent = ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9]), ARGV[10], ARGV[11]

local function each_entry(change, place, of_status, of_agent)
  change(listed, of_status .. '\0\0' .. place .. '\0' .. id)
  change(listed, '\0\0' .. place .. '\0' .. id)
  if of_agent == '' then return end
  change(listed, of_status .. '\0' .. of_agent .. '\0' .. place .. '\0' .. id)
  change(listed, '\0' .. of_agent .. '\0' .. place .. '\0' .. id)
end
local function put(key, member) redis.call('ZADD', key, 0, member) end
local function drop(key, member) redis.call('ZREM', key, member) end

if redis.call('ZSCORE', gone, birth) then return 0 end
local packed = redis.call('HGET', shown, id)
local known = packed and cmsgpack.unpack(packed) or {'', -1}
if must_be ~= '' then
  if must_be ~= known[1] .. ' ' .. known[2] then return 0 end
elseif status ~= '' and known[1] == birth and known[2] >= version then
  return 0
end

if packed then each_entry(drop, known[3], known[4], known[5]) end
if status == '' then
  redis.call('HDEL', shown, id)
  if birth ~= '' then
    redis.call('ZADD', gone, now(), birth)
    redis.call('ZREMRANGEBYSCORE', gone, '-inf', now() - gone_for)
    redis.call('PEXPIRE', gone, gone_for)
  end
else
  local place = string.format('%015.0f.%012.0f', updated, redis.call('HINCRBY', shown, '', 1))
  each_entry(put, place, status, agent)
  redis.call('HSET', shown, id, cmsgpack.pack({birth, version, place, status, agent}))
end
for i = 12, #ARGV, 2 do
  if known[1] ~= birth or tonumber(ARGV[i]) > known[2] then
    append_event(told, events, watch, fresh_epoch, ARGV[i + 1], '', false)
    redis.call('PEXPIRE', told, ttl)
    redis.call('PEXPIRE', events, ttl)
  end
end
-- Of a thread that was deleted nothing stays, what was told of it neither: who is behind reads the list anew.
if status == '' and #ARGV >= 12 then
  local head = redis.call('HGET', told, 'head')
  redis.call('XTRIM', events, 'MINID', '=', head .. '-0')
  redis.call('HSET', told, 'first', head)
end
return 1
