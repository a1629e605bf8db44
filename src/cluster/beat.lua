-- Says that a node lives. KEYS: 1 the nodes, a sorted set by when their leases are over; 2 what they have all been configured with;
-- 3 the line.
-- ARGV: 1 the node, 2 its lease, in ms, 3 after how long a node that is lost is forgotten, in ms, 4 the configuration.
-- Returns {whether it was missing or late (0 or 1), the time, the line that is going on, node, when its lease is over, node, ..}.
local now = now_ms()
local before = redis.call('ZSCORE', KEYS[1], ARGV[1])
local is_late = not before or tonumber(before) < now
redis.call('ZADD', KEYS[1], text(now + tonumber(ARGV[2])), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. text(now - tonumber(ARGV[3])))
-- For twice the lease: when all nodes have stopped others may begin with another one.
redis.call('SET', KEYS[2], ARGV[4], 'NX')
redis.call('PEXPIRE', KEYS[2], 2 * tonumber(ARGV[2]))
local found = {is_late and '1' or '0', text(now), redis.call('GET', KEYS[3]) or ''}
local all = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #all, 2 do
    found[i + 3], found[i + 4] = all[i], text(tonumber(all[i + 1]))
end
return found
