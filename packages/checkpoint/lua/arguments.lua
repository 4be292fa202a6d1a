-- Put before scripts that are given lists of any length: each is its length, then its items.

-- Answers a function that reads the next list, and one that reads it as a set. at: where in ARGV the first one begins
local function lists_from(at)
  local function next_list()
    local list, count = {}, tonumber(ARGV[at])
    for i = 1, count do list[i] = ARGV[at + i] end
    at = at + 1 + count
    return list
  end
  local function next_set()
    local set = {}
    for _, each in ipairs(next_list()) do set[each] = true end
    return set
  end
  return next_list, next_set
end

