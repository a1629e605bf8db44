-- Keeps what a session is. KEYS: 1 the session's: a hash of ref (where it is), as (where it was when it was kept last), rev, body,
-- before (where it had been before that, and from where it has been taken since), free, moved (another node has had it), ended, and the line that it is of. What is of another line than the one that is going on is from
-- before a loss: nobody has said since that it is so.
-- ARGV: 1 where it is, 2 the revision, 3 the body, 4 whether another node may have it (0 or 1), 5 how long it is kept, in
-- ms, 6 whether it is taken back (0 or 1), which it is only if nobody has taken it since it was given up: what was given up has the
-- revision before this one. What is taken back twice has the same revision both times. 7 the line; 8 where it has been before, between
-- spaces.
-- Returns 1; 0: a later revision is kept, as on one node a session may have moved; or -1: another node has it, or has had it until it
-- ended.
local kept = redis.call('HMGET', KEYS[1], 'ref', 'rev', 'as', 'ended', 'line')
if kept[4] then
    return -1
end
local is_ours = kept[1] and string.match(kept[1], '^%d+') == string.match(ARGV[1], '^%d+')
local is_doubtful = kept[5] ~= ARGV[7]
if kept[1] and not is_ours and is_doubtful then
    -- It is somewhere else by now than it was then, and that node may come back to it.
    redis.call('HSET', KEYS[1], 'moved', '1')
elseif kept[1] then
    local rev, new = tonumber(kept[2] or '0'), tonumber(ARGV[2])
    if not is_ours then
        return -1
    end
    if ARGV[6] == '1' then
        local is_taken = rev == new or (rev == new - 1 and kept[1] ~= kept[3])
        if rev > new or (kept[1] ~= ARGV[1] and is_taken) then
            return 0
        end
    elseif rev >= new and not is_doubtful then
        return 0
    end
end
redis.call('HSET', KEYS[1], 'ref', ARGV[1], 'as', ARGV[1], 'rev', ARGV[2], 'body', ARGV[3], 'free', ARGV[4],
    'line', ARGV[7], 'before', ARGV[8])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 1
