-- Stores a checkpoint and the channel values that are new with it, and moves the thread's head to it. Uses lists.lua.
-- KEYS[1] fence   KEYS[2] head   KEYS[3] checkpoints   KEYS[4] blobs   KEYS[5] writes   KEYS[6] index
-- ARGV[1] fence token, '' for none   ARGV[2] namespace   ARGV[3] checkpoint id   ARGV[4] parent's id, '' for none
-- ARGV[5] run id, '' for none   ARGV[6] '1' moves the head, '0' leaves it
-- ARGV[7] '' , or '=' and the id that the head must be at ('=' alone: no head)
-- ARGV[8] generation of the elements that are named, '' for none   ARGV[9] generation, should there be none yet
-- ARGV[10] checkpoint   ARGV[11] metadata   ARGV[12] number n of channels
-- ARGV[13…] n pairs channel, version; then for each that is new channel, version, value, number m of new elements, and
--           these
-- Answers {1, generation, number of the first new element of each list…} · {-1} stale attempt
-- · {-3} the head is elsewhere · {-5} elements that are named may be gone; on a negative answer nothing was written
local fence, head, checkpoints, blobs, index = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[6]
local token, ns, id, parent, run, moves_head = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6] == '1'
local must_be_at, generation, fresh_generation = ARGV[7], ARGV[8], ARGV[9]
local checkpoint, metadata, channels = ARGV[10], ARGV[11], tonumber(ARGV[12])
if token ~= '' and redis.call('GET', fence) ~= token then return {-1} end
if must_be_at ~= '' then
  local at = redis.call('HGET', head, ns) or ''
  -- A head at this very checkpoint is a put that is sent again because its answer was lost.
  if '=' .. at ~= must_be_at and at ~= id then return {-3} end
end
if not knows_elements(generation) then return {-5} end

local versions, firsts = {}, {}
local at = 13 + 2 * channels
for i = 13, at - 1 do versions[#versions + 1] = ARGV[i] end
while at <= #ARGV do
  local channel, version, value, count = ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  if is_list(value) then
    local elements = {}
    for i = 1, count do elements[i] = ARGV[at + 3 + i] end
    value, firsts[#firsts + 1] = store_list(channel, value, elements)
  end
  redis.call('HSET', blobs, ns .. '\0' .. channel .. '\0' .. version, value)
  at = at + 4 + count
end
if #firsts > 0 then redis.call('HSETNX', blobs, '#', fresh_generation) end

local field = ns .. '\0' .. id
redis.call('HSET', checkpoints, field, cmsgpack.pack({ parent, run, checkpoint, metadata, versions }))
redis.call('ZADD', index, 0, 'c\0' .. field)
if run ~= '' then redis.call('ZADD', index, 0, 'r\0' .. run .. '\0c\0' .. field) end
if moves_head then redis.call('HSET', head, ns, id) end
return { 1, current_generation(), unpack(firsts) }
