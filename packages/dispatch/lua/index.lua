-- Adds a run to an owner's index. One that is there already keeps its place.
-- KEYS[1] all runs of the owner, by time
-- ARGV[1] runId
-- Answers 1
add(KEYS[1], ARGV[1])
return 1
