"""What a sample of a server's CPU time is put down to, by the functions on its stack."""

import re

# The first of these that one of its functions is in, looked at from the innermost outwards. Inner layers come first, so that each has its
# own time, without what it calls in another.
LAYERS = [
    ("the reader is woken", ("sock_def_readable", "ep_poll_callback", "try_to_wake_up")),
    ("TCP takes it in, on the reader's side, and its acknowledgement", ("tcp_v4_rcv",)),
    ("IP and the loopback device hand it over", ("net_rx_action", "handle_softirqs", "do_softirq", "__ip_queue_xmit", "ip_output",
                                                 "__dev_queue_xmit")),
    ("TCP makes a segment of it", ("__tcp_transmit_skb", "tcp_write_xmit", "__tcp_push_pending_frames")),
    ("TCP takes the bytes into a buffer", ("tcp_sendmsg",)),
    ("the system call: entry, descriptor, exit", ("__sys_sendto", "ksys_write", "do_writev", "__x64_sys_", "do_syscall_64", "entry_SYSCALL_64")),
]
WAITING = "epoll: waiting for something to do"
READING = "reading from publishers"
OTHER = "the kernel, without being called: interrupts, pages"
OWN = "the server itself"
KERNEL = "[kernel"


def parse(sample):
    """A sample of `perf script -F ip,sym,dso`: (function, whether it is the kernel's) from the innermost outwards."""
    stack = []
    for line in sample.splitlines():
        found = re.match(r"\s*[0-9a-f]+ (.*) \(([^()]*)\)$", line)
        if found:
            stack.append((found[1], found[2].startswith(KERNEL)))
    return stack


def is_own(stack):
    return not stack[0][1]


def place_of(stack):
    """The layer of a sample."""
    functions = [function for function, _ in stack]
    if is_own(stack):
        return OWN
    if any("epoll_wait" in function for function in functions):
        return WAITING
    if any(function.startswith(("__x64_sys_recv", "__x64_sys_read", "ksys_read", "do_readv")) for function in functions):
        return READING
    for function in functions:
        for place, names in LAYERS:
            if function.startswith(names):
                return place
    return OTHER


def call_of(stack):
    """The system call that a sample was in."""
    if is_own(stack):
        return OWN
    for function, _ in stack:
        found = re.match(r"__x64_sys_(\w+)", function)
        if found:
            return f"`{found[1]}`"
    is_called = any(function.startswith(("do_syscall_64", "entry_SYSCALL_64", "syscall_")) for function, _ in stack)
    return "entering and leaving the kernel" if is_called else OTHER


def short(frame):
    """The function of a frame, without the path to it."""
    function = re.sub(r"\(.*|::h[0-9a-f]{16}$", "", frame[0])
    return re.sub(r"^.*?(\w+(?:::\w+)?)$", r"\1", function)
