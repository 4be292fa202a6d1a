-- Reads a page of the log: whole entries, joined to one JSON array with one part per line.
-- KEYS[1] run hash   KEYS[2] log
-- ARGV[1] the last offset that the reader has   ARGV[2] bytes to stop at (one entry is always read)
-- Answers {} no such run · {status, epoch, head, first offset of the log, first, last, body}; first, last 0 and body
-- '' where there is nothing after that offset. `first` may be lower than asked: entries are not cut.
local run = redis.call('HMGET', KEYS[1], 'status', 'epoch', 'head', 'first')
if not run[1] then return {} end
-- One entry first: its size says how many to ask for next.
local want = tonumber(ARGV[2])
local from = tonumber(ARGV[1]) + 1
local bodies, size, first, last, count = {}, 0, 0, 0, 1
while size < want do
  local entries = redis.call('XRANGE', KEYS[2], from .. '-0', '+', 'COUNT', count)
  for _, entry in ipairs(entries) do
    local id = entry[1]
    last = tonumber(string.sub(id, 1, -3))
    local fields = entry[2]
    local body = fields[4]
    if first == 0 then first = last - tonumber(fields[2]) + 1 end
    bodies[#bodies + 1] = string.sub(body, 2, -2)
    size = size + #body
    if size >= want then break end
  end
  if #entries < count then break end
  from = last + 1
  count = math.max(1, math.min(1024, math.ceil((want - size) / (size / #bodies))))
end
return {run[1], run[2], tonumber(run[3]), tonumber(run[4]), first, last,
  first == 0 and '' or ('[' .. table.concat(bodies, ',\n') .. ']')}
