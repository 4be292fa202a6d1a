-- Reads checkpoints without most of their values, and of lists only the numbers of their elements. Uses lists.lua and arguments.lua.
-- KEYS[1] fence   KEYS[2] head   KEYS[3] checkpoints   KEYS[4] blobs   KEYS[5] writes   KEYS[6] index
-- ARGV[1] bytes of values after which it stops, behind at least one checkpoint
-- ARGV[2] 'page', and   ARGV[3] upper and ARGV[4] lower bound in the index   ARGV[5] how many at most
-- ARGV[2] 'these', and   ARGV[3] namespace   ARGV[4] number n   ARGV[5…] n ids, '' for the head
-- then four lists, each with its length before it: channels of which it is enough that they are there; channels of
-- which the first that is there is told; how the names of others begin that are told; channels of writes whose values
-- are told
-- Answers {elements' generation, '1' where there may be more, {field, value, …}, then for each checkpoint {namespace, id,
--         parent's id or '', checkpoint, metadata, {channel, field of its value or '', …}, {task id, channel, value or '',
--         task's path or '', …} by task and position}}
local _, heads, checkpoints, blobs, pending, index = unpack(KEYS)
local left, kind = tonumber(ARGV[1]), ARGV[2]
local at = 6
if kind == 'these' then at = 5 + tonumber(ARGV[4]) end
local next_list, next_set = lists_from(at)
local present, first_of, stems, told_writes = next_set(), next_list(), next_list(), next_set()

local fields, known = {}, {}
-- Whether there is a value in this field: each is told once.
local function tell(field)
  if known[field] == nil then
    local value = redis.call('HGET', blobs, field)
    known[field] = value ~= false
    if value then
      fields[#fields + 1] = field
      fields[#fields + 1] = value
      left = left - #value
    end
  end
  return known[field]
end

local function is_told(channel)
  for _, stem in ipairs(stems) do
    if channel:sub(1, #stem) == stem then return true end
  end
  return false
end

local function tuple(ns, id)
  local packed = redis.call('HGET', checkpoints, ns .. '\0' .. id)
  if not packed then return nil end
  local parent, _, checkpoint, metadata, versions = unpack(cmsgpack.unpack(packed))
  left = left - #packed

  local values, by_channel = {}, {}
  local function add(channel, field)
    values[#values + 1] = channel
    values[#values + 1] = field
  end
  for i = 1, #versions, 2 do
    local channel = versions[i]
    local field = ns .. '\0' .. channel .. '\0' .. versions[i + 1]
    by_channel[channel] = field
    if present[channel] then
      if redis.call('HEXISTS', blobs, field) == 1 then add(channel, '') end
    elseif is_told(channel) and tell(field) then
      add(channel, field)
    end
  end
  for _, channel in ipairs(first_of) do
    local field = by_channel[channel]
    if field and tell(field) then
      add(channel, field)
      break
    end
  end

  local writes = {}
  local stem = 'w\0' .. ns .. '\0' .. id
  for _, entry in ipairs(redis.call('ZRANGEBYLEX', index, '[' .. stem .. '\0', '(' .. stem .. '\1')) do
    local task, channel, value, _, _, path = unpack(cmsgpack.unpack(redis.call('HGET', pending, entry:sub(3))))
    local told = told_writes[channel] and value or ''
    for _, each in ipairs({ task, channel, told, path or '' }) do writes[#writes + 1] = each end
    left = left - #told
  end
  return { ns, id, parent, checkpoint, metadata, values, writes }
end

local tuples, more = {}, false
if kind == 'these' then
  local ns = ARGV[3]
  for i = 5, 4 + tonumber(ARGV[4]) do
    local id = ARGV[i] ~= '' and ARGV[i] or redis.call('HGET', heads, ns)
    if #tuples > 0 and left <= 0 then more = true; break end
    tuples[#tuples + 1] = id and tuple(ns, id) or nil
  end
else
  local upper, lower, count = ARGV[3], ARGV[4], tonumber(ARGV[5])
  local entries = redis.call('ZREVRANGEBYLEX', index, upper, lower, 'LIMIT', 0, count)
  more = #entries == count
  for _, entry in ipairs(entries) do
    if #tuples > 0 and left <= 0 then more = true; break end
    tuples[#tuples + 1] = tuple(entry:match('^c%z([^%z]*)%z(.*)$'))
  end
end
return { current_generation(), more and '1' or '', fields, unpack(tuples) }
