-- Takes a session. KEYS: 1 the session's. ARGV: 1 where it was, 2 where it goes on, 3 how long it is kept, in ms, 4 the
-- line, 5 how many places it is known by at most.
-- Returns {revision, body, where it was when it was kept last, where it has been, the last place first}, or nil: it is somewhere else by
-- now. Whoever takes it may be lost before it has kept it, and have said in some room that it is there: that is kept here, and then where it
-- was kept is one of these places too; otherwise they are from before that.
local kept = redis.call('HMGET', KEYS[1], 'ref', 'rev', 'body', 'as', 'ended', 'before')
if kept[1] ~= ARGV[1] or kept[5] then
    return false
end
if string.match(ARGV[1], '^%d+') ~= string.match(ARGV[2], '^%d+') then
    redis.call('HSET', KEYS[1], 'moved', '1')
end
local before = kept[6] or ''
if kept[1] ~= kept[4] then
    local places = {kept[1]}
    if not string.find(' ' .. before .. ' ', ' ' .. kept[4] .. ' ', 1, true) then
        before = kept[4] .. ' ' .. before
    end
    for place in string.gmatch(before, '%S+') do
        if #places < tonumber(ARGV[5]) then
            places[#places + 1] = place
        end
    end
    before = table.concat(places, ' ')
end
redis.call('HSET', KEYS[1], 'ref', ARGV[2], 'free', '0', 'line', ARGV[4], 'before', before)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {kept[2], kept[3], kept[4], before}
