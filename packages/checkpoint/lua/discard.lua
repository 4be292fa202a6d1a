-- Takes a run back out of its thread: its checkpoints in all namespaces with their writes, the writes that it left on
-- other checkpoints, and the channel values that no other checkpoint shares. The root's head goes where it is told;
-- another namespace's head that is lost falls back to the nearest ancestor that stays. Uses lists.lua.
-- KEYS[1] fence   KEYS[2] head   KEYS[3] checkpoints   KEYS[4] blobs   KEYS[5] writes   KEYS[6] index
-- ARGV[1] fence token, '' for none   ARGV[2] run id   ARGV[3] checkpoint id for the root's head, '' for no head
-- ARGV[4] '1': only the writes that it left on others' checkpoints; its own, and the heads, stay
-- ARGV[5] the elements' generation, should some be deleted
-- Answers 1 done · -1 stale attempt · -2 no such checkpoint to put the head at; on a negative answer nothing was written
local fence, heads, checkpoints, blobs, pending, index = unpack(KEYS)
local token, run, head, writes_only, generation = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1', ARGV[5]
if token ~= '' and redis.call('GET', fence) ~= token then return -1 end

local function entries(stem) return redis.call('ZRANGEBYLEX', index, '[' .. stem .. '\0', '(' .. stem .. '\1') end
local function record(field)
  local packed = redis.call('HGET', checkpoints, field)
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

local root = '\0' .. head
if not writes_only and head ~= '' and (doomed[root] or redis.call('HEXISTS', checkpoints, root) == 0) then return -2 end

-- The lists that are deleted, and those that stay, as far as they could share elements.
local gone, kept = {}, {}
local function delete_blob(field)
  local channel = field:match('^[^%z]*%z([^%z]*)%z')
  local value = redis.call('HGET', blobs, field)
  if value then add_list(gone, channel, value) end
  redis.call('HDEL', blobs, field)
end
-- A write, and what it replaced.
local function add_write(lists, packed)
  while packed ~= '' do
    local write = cmsgpack.unpack(packed)
    add_list(lists, write[2], write[3])
    packed = write[5]
  end
end
local function delete_write(field)
  add_write(gone, redis.call('HGET', pending, field) or '')
  redis.call('HDEL', pending, field)
  redis.call('ZREM', index, 'w\0' .. field)
end
local function sweep()
  if next(gone) == nil then return end
  local looked = {}
  for _, entry in ipairs(entries('c')) do
    local ns = entry:match('^c%z([^%z]*)')
    local versions = record(entry:sub(3))[5]
    for i = 1, #versions, 2 do
      local field = ns .. '\0' .. versions[i] .. '\0' .. versions[i + 1]
      local value = gone[stem_of(versions[i])] and not looked[field] and redis.call('HGET', blobs, field)
      looked[field] = true
      if value then add_list(kept, versions[i], value) end
    end
  end
  for _, entry in ipairs(entries('w')) do add_write(kept, redis.call('HGET', pending, entry:sub(3)) or '') end
  if delete_elements(gone, kept) then redis.call('HSET', blobs, '#', generation) end
end

-- Writes on checkpoints that stay: what they replaced comes back.
for _, field in ipairs(writes) do
  local checkpoint = field:match('^[^%z]*%z[^%z]*')
  local packed = not doomed[checkpoint] and redis.call('HGET', pending, field)
  local write = packed and cmsgpack.unpack(packed)
  if write and write[4] == run then
    if write[5] == '' then
      delete_write(field)
    else
      add_list(gone, write[2], write[3])
      redis.call('HSET', pending, field, write[5])
    end
    redis.call('ZREM', index, stem .. '\0w\0' .. field)
  end
end
if writes_only then
  sweep()
  return 1
end

-- Heads first: the way up leads through checkpoints that are about to go.
for ns in pairs(namespaces) do
  local id = redis.call('HGET', heads, ns)
  if ns ~= '' and id and doomed[ns .. '\0' .. id] then
    while id ~= '' and doomed[ns .. '\0' .. id] do id = doomed[ns .. '\0' .. id][1] end
    if id ~= '' and redis.call('HEXISTS', checkpoints, ns .. '\0' .. id) == 1 then
      redis.call('HSET', heads, ns, id)
    else
      redis.call('HDEL', heads, ns)
    end
  end
end
if head == '' then redis.call('HDEL', heads, '') else redis.call('HSET', heads, '', head) end

local unused = {}
for field, it in pairs(doomed) do
  for _, entry in ipairs(entries('w\0' .. field)) do delete_write(entry:sub(3)) end
  local ns = field:match('^[^%z]*')
  for i = 1, #it[5], 2 do unused[ns .. '\0' .. it[5][i] .. '\0' .. it[5][i + 1]] = true end
  redis.call('HDEL', checkpoints, field)
  redis.call('ZREM', index, 'c\0' .. field)
end
for ns in pairs(namespaces) do
  for _, entry in ipairs(entries('c\0' .. ns)) do
    local versions = record(entry:sub(3))[5]
    for i = 1, #versions, 2 do unused[ns .. '\0' .. versions[i] .. '\0' .. versions[i + 1]] = nil end
  end
end
for field in pairs(unused) do delete_blob(field) end
sweep()

redis.call('ZREMRANGEBYLEX', index, '[' .. stem .. '\0', '(' .. stem .. '\1')
if redis.call('EXISTS', index) == 0 then redis.call('DEL', blobs) end
return 1
