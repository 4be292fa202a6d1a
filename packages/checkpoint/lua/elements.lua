-- Reads elements of a list. Uses lists.lua.
-- KEYS[1] fence   KEYS[2] head   KEYS[3] checkpoints   KEYS[4] blobs   KEYS[5] writes   KEYS[6] index
-- ARGV[1] generation of the elements   ARGV[2] channel   ARGV[3] their numbers, as in a list's value
-- ARGV[4] how many of the list's first pages are known
-- Answers elements, as lists.lua has them; of another generation, none
local generation, channel, list, pages = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if current_generation() ~= generation then return { current_generation() } end
local lists = {}
add_list(lists, channel, list)
return elements_of(lists, generation, { [stem_of(channel)] = pages })
