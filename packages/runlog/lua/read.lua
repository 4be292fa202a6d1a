-- Reads a page of the log: whole entries, as JSON arrays with one part per line.
-- KEYS[1] run hash   KEYS[2] log
-- ARGV[1] the last offset that the reader has   ARGV[2] bytes to stop at (one entry is always read)
-- Answers {} no such run · {status, epoch, '<offset>:<epoch>' of the epoch before or '', head, first offset of the log,
--         first, last, bodies…}; first and last are 0 where there is nothing after that offset. `first` may be lower than
--         asked: entries are not cut. Small bodies are joined to one, which saves the reader a reply of thousands; large
--         ones are not, which saves copies.
local key, log = KEYS[1], KEYS[2]
local after, want = tonumber(ARGV[1]), tonumber(ARGV[2])
local run = redis.call('HMGET', key, 'status', 'epoch', 'head', 'first', 'earlier')
if not run[1] then return {} end
-- One entry first: its size says how many to ask for next.
local from = after + 1
local bodies, size, first, last, count = {}, 0, 0, 0, 1
while size < want do
  local entries = redis.call('XRANGE', log, from .. '-0', '+', 'COUNT', count)
  for _, entry in ipairs(entries) do
    last = tonumber(string.sub(entry[1], 1, -3))
    local body = entry[2][4]
    if first == 0 then first = last - tonumber(entry[2][2]) + 1 end
    bodies[#bodies + 1] = body
    size = size + #body
    if size >= want then break end
  end
  if #entries < count then break end
  from = last + 1
  count = math.max(1, math.min(1024, math.ceil((want - size) / (size / #bodies))))
end
local answer = {run[1], run[2], run[5] or '', tonumber(run[3]), tonumber(run[4]), first, last}
if #bodies > 1 and size / #bodies < 4096 then
  for i, body in ipairs(bodies) do bodies[i] = string.sub(body, 2, -2) end
  bodies = {'[' .. table.concat(bodies, ',\n') .. ']'}
end
for _, body in ipairs(bodies) do answer[#answer + 1] = body end
return answer
