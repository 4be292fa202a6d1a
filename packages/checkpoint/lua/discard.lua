-- Takes a run back out of its thread: its checkpoints in all namespaces with their writes, the writes that it left on
-- other checkpoints, and the channel values that no other checkpoint shares. The root's head goes where it is told;
-- another namespace's head that is lost falls back to the nearest ancestor that stays.
-- KEYS[1] fence   KEYS[2] head   KEYS[3] checkpoints   KEYS[4] blobs   KEYS[5] writes   KEYS[6] index
-- ARGV[1] fence token, '' for none   ARGV[2] run id   ARGV[3] checkpoint id for the root's head, '' for no head
-- ARGV[4] '1': only the writes that it left on others' checkpoints; its own, and the heads, stay
-- Answers 1 done · -1 stale attempt · -2 no such checkpoint to put the head at; on a negative answer nothing was written
if ARGV[1] ~= '' and redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local run = ARGV[2]

local function entries(stem) return redis.call('ZRANGEBYLEX', KEYS[6], '[' .. stem .. '\0', '(' .. stem .. '\1') end
local function record(field)
  local packed = redis.call('HGET', KEYS[3], field)
  return packed and cmsgpack.unpack(packed)
end

local stem = 'r\0' .. run
local doomed, namespaces, writes = {}, {}, {}
for _, entry in ipairs(entries(stem)) do
  local kind, field = entry:sub(#stem + 2, #stem + 2), entry:sub(#stem + 4)
  if kind == 'w' then
    writes[#writes + 1] = field
  else
    local it = record(field)
    -- The same checkpoint may have been put again by another run since.
    if it and it[2] == run then
      doomed[field] = it
      namespaces[field:match('^[^%z]*')] = true
    end
  end
end

local writesOnly = ARGV[4] == '1'
local root = '\0' .. ARGV[3]
if not writesOnly and ARGV[3] ~= '' and (doomed[root] or redis.call('HEXISTS', KEYS[3], root) == 0) then return -2 end

-- Writes on checkpoints that stay: what they replaced comes back.
for _, field in ipairs(writes) do
  local checkpoint = field:match('^[^%z]*%z[^%z]*')
  local packed = not doomed[checkpoint] and redis.call('HGET', KEYS[5], field)
  local write = packed and cmsgpack.unpack(packed)
  if write and write[4] == run then
    if write[5] == '' then
      redis.call('HDEL', KEYS[5], field)
      redis.call('ZREM', KEYS[6], 'w\0' .. field)
    else
      redis.call('HSET', KEYS[5], field, write[5])
    end
    redis.call('ZREM', KEYS[6], stem .. '\0w\0' .. field)
  end
end
if writesOnly then return 1 end

-- Heads first: the way up leads through checkpoints that are about to go.
for ns in pairs(namespaces) do
  local id = redis.call('HGET', KEYS[2], ns)
  if ns ~= '' and id and doomed[ns .. '\0' .. id] then
    while id ~= '' and doomed[ns .. '\0' .. id] do id = doomed[ns .. '\0' .. id][1] end
    if id ~= '' and redis.call('HEXISTS', KEYS[3], ns .. '\0' .. id) == 1 then
      redis.call('HSET', KEYS[2], ns, id)
    else
      redis.call('HDEL', KEYS[2], ns)
    end
  end
end
if ARGV[3] == '' then redis.call('HDEL', KEYS[2], '') else redis.call('HSET', KEYS[2], '', ARGV[3]) end

local blobs = {}
for field, it in pairs(doomed) do
  for _, entry in ipairs(entries('w\0' .. field)) do
    redis.call('HDEL', KEYS[5], entry:sub(3))
    redis.call('ZREM', KEYS[6], entry)
  end
  local ns = field:match('^[^%z]*')
  for i = 1, #it[5], 2 do blobs[ns .. '\0' .. it[5][i] .. '\0' .. it[5][i + 1]] = true end
  redis.call('HDEL', KEYS[3], field)
  redis.call('ZREM', KEYS[6], 'c\0' .. field)
end
for ns in pairs(namespaces) do
  for _, entry in ipairs(entries('c\0' .. ns)) do
    local versions = record(entry:sub(3))[5]
    for i = 1, #versions, 2 do blobs[ns .. '\0' .. versions[i] .. '\0' .. versions[i + 1]] = nil end
  end
end
for field in pairs(blobs) do redis.call('HDEL', KEYS[4], field) end

redis.call('ZREMRANGEBYLEX', KEYS[6], '[' .. stem .. '\0', '(' .. stem .. '\1')
return 1
