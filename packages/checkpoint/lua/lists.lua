-- Lists whose elements are stored once each, and shared by all versions, branches and namespaces of a thread that have
-- them in the same channel.
-- KEYS[4] blobs
--   field 1 NUL <channel> NUL '#'           the highest number that an element has; 1 is the byte, no namespace's name
--   field 1 NUL <channel> NUL '#'<page>     elements, one a line: those from 32 × page + 1 on, in their order
--   field 1 NUL <channel> NUL '#='<number>  an element that is long; its line is '@'
--   field '#'                               a new text when some were deleted
-- Where a list is a value, 'list' NUL '<first>-<last>,…' stands for it: the numbers of its elements, in its order. In a
-- pending write new elements have no numbers yet: it has '+<count>' for them, and their lines, each behind a newline.
local blobs = KEYS[4]
local page_size, long = 32, 4096

local function is_list(value) return string.sub(value, 1, 5) == 'list\0' end
local function stem_of(channel) return '\1\0' .. channel .. '\0#' end
local function page_of(number) return math.floor((number - 1) / page_size) end

-- A list from its ranges: those that follow each other become one.
local function list_of(ranges)
  local parts, from, to = {}, nil, nil
  for _, range in ipairs(ranges) do
    if to and range[1] == to + 1 then
      to = range[2]
    else
      if from then parts[#parts + 1] = from .. '-' .. to end
      from, to = range[1], range[2]
    end
  end
  if from then parts[#parts + 1] = from .. '-' .. to end
  return 'list\0' .. table.concat(parts, ',')
end

-- The same numbers in ascending ranges that do not touch.
local function merged(ranges)
  table.sort(ranges, function(a, b) return a[1] < b[1] end)
  local answer = {}
  for _, range in ipairs(ranges) do
    local last = answer[#answer]
    if last and range[1] <= last[2] + 1 then
      last[2] = math.max(last[2], range[2])
    else
      answer[#answer + 1] = { range[1], range[2] }
    end
  end
  return answer
end

-- Lists by stem, as ranges.
local function add_list(lists, channel, value)
  if not is_list(value) then return end
  local stem = stem_of(channel)
  local ranges = lists[stem] or {}
  lists[stem] = ranges
  for first, last in string.gmatch(string.match(value, '^list%z([^\n]*)'), '(%d+)%-(%d+)') do
    ranges[#ranges + 1] = { tonumber(first), tonumber(last) }
  end
end

-- The elements' generation, '' where there are none. Numbers mean the same elements only within one: it is another when
-- some were deleted, and when Redis may have lost writes, for then numbers are given out again. Redis gets a new
-- replication id when it starts, and when a replica becomes a master.
local function current_generation()
  local text = redis.call('HGET', blobs, '#')
  if not text then return '' end
  local info = redis.pcall('INFO', 'replication')
  return text .. ':' .. (type(info) == 'string' and string.match(info, 'master_replid:(%w+)') or '')
end

-- Whether the numbers that a writer names are those of the elements that it means.
local function knows_elements(generation) return generation == '' or current_generation() == generation end

-- Gives elements their numbers. Answers the first.
local function add_elements(stem, elements)
  local last = redis.call('HINCRBY', blobs, stem, #elements)
  local first = last - #elements + 1
  local lines = {}
  for i, element in ipairs(elements) do
    local number = first + i - 1
    if #element >= long then
      redis.call('HSET', blobs, stem .. '=' .. number, element)
      element = '@'
    end
    lines[#lines + 1] = element
    if number % page_size == 0 or number == last then
      local page = stem .. page_of(number)
      local begun = number - #lines >= 1 and (number - #lines) % page_size ~= 0
      local before = begun and redis.call('HGET', blobs, page) .. '\n' or ''
      redis.call('HSET', blobs, page, before .. table.concat(lines, '\n'))
      lines = {}
    end
  end
  return first
end

-- Stores the new elements of a list that comes as 'list' NUL '<first>-<last>,+<count>,…': ranges of what is there, and
-- how many of the new ones. Answers the value to store, and the number of the first new one.
local function store_list(channel, list, elements)
  local first = add_elements(stem_of(channel), elements)
  local ranges, next = {}, first
  for part in string.gmatch(string.sub(list, 6), '[^,]+') do
    local new = string.match(part, '^%+(%d+)$')
    if new then
      ranges[#ranges + 1] = { next, next + new - 1 }
      next = next + new
    else
      local from, to = string.match(part, '^(%d+)%-(%d+)$')
      ranges[#ranges + 1] = { tonumber(from), tonumber(to) }
    end
  end
  return list_of(ranges), first
end

-- Calls `take(number, line)` for the elements of a page that are in a range. Answers what they become, as a page.
local function each_line(page, text, range, take)
  local number, lines = page * page_size, {}
  for line in string.gmatch(text .. '\n', '(.-)\n') do
    number = number + 1
    lines[#lines + 1] = number >= range[1] and number <= range[2] and take(number, line) or line
  end
  return table.concat(lines, '\n')
end

-- {generation or '', {stem, {page's number, page, …}, {number, long element, …}}, …}: all that lists are made of, but
-- for the first pages of some, which whoever asks knows: how many, by stem, if the elements are still of `generation`.
local function elements_of(lists, generation, known)
  local now = current_generation()
  local answer = { now }
  for stem, ranges in pairs(lists) do
    local pages, longer, last = {}, {}, -1
    local skipped = generation == now and known[stem] or 0
    for _, range in ipairs(merged(ranges)) do
      for page = math.max(page_of(range[1]), skipped), page_of(range[2]) do
        local text = assert(redis.call('HGET', blobs, stem .. page), 'elements of a list are missing')
        if page > last then
          pages[#pages + 1] = page
          pages[#pages + 1] = text
          last = page
        end
        if string.sub(text, 1, 1) == '@' or string.find(text, '\n@', 1, true) then
          each_line(page, text, range, function(number, line)
            if line ~= '@' then return end
            longer[#longer + 1] = number
            longer[#longer + 1] = assert(redis.call('HGET', blobs, stem .. '=' .. number), 'an element is missing')
          end)
        end
      end
    end
    answer[#answer + 1] = { stem, pages, longer }
  end
  return answer
end

-- Deletes the elements of some lists that are in none of the others. Answers whether there were any.
local function delete_elements(lists, others)
  local deleted = false
  for stem, ranges in pairs(lists) do
    local highest = tonumber(redis.call('HGET', blobs, stem))
    local function delete(from, to)
      deleted = true
      for page = page_of(from), page_of(to) do
        local text = redis.call('HGET', blobs, stem .. page)
        local left = text and each_line(page, text, { from, to }, function(number, line)
          if line == '@' then redis.call('HDEL', blobs, stem .. '=' .. number) end
          return ''
        end)
        if left then
          -- A page that may still grow stays, for its lines to keep their places.
          local is_over = string.find(left, '^\n*$') and highest >= (page + 1) * page_size
          if is_over then redis.call('HDEL', blobs, stem .. page) else redis.call('HSET', blobs, stem .. page, left) end
        end
      end
    end
    local keep = merged(others[stem] or {})
    for _, range in ipairs(merged(ranges)) do
      local from = range[1]
      for _, kept in ipairs(keep) do
        if kept[2] >= from and kept[1] <= range[2] then
          if kept[1] > from then delete(from, kept[1] - 1) end
          from = kept[2] + 1
        end
      end
      if from <= range[2] then delete(from, range[2]) end
    end
  end
  return deleted
end
