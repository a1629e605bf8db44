-- Begins another line, because something is lost, unless somebody has done so since the server was started.
-- KEYS: 1 the line; 2 the run of the server in which it was begun. ARGV: 1 the new line, 2 the run, or nothing where it is not known.
-- Returns the line that is going on. All nodes that have lost something by one loss find the same.
if ARGV[2] ~= '' and redis.call('GET', KEYS[2]) == ARGV[2] then
    local line = redis.call('GET', KEYS[1])
    if line then
        return line
    end
end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2])
return ARGV[1]
