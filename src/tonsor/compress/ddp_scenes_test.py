"""What real processes play over gloo for `ddp_workers_test.py`: each writes down what it saw."""

import multiprocessing
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tonsor.compress import Comm, ErrorFeedback, PowerSGD, TopK, compress_ddp, dense

STEPS = 6
RULES = {
    "dense": lambda: dense,
    "TopK": partial(TopK, density=0.05),
    "PowerSGD": partial(PowerSGD, rank=2),
    "ErrorFeedback+TopK": lambda: ErrorFeedback(TopK(density=0.05)),
    "ErrorFeedback+PowerSGD": lambda: ErrorFeedback(PowerSGD(rank=2)),
    "nearly all": lambda: ErrorFeedback(TopK(density=0.45)),
}


class Net(nn.Module):
    """Four layers; one of them is a side branch that may rest."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(10, 40), nn.Linear(40, 4)
        self.middle, self.side = nn.Linear(40, 40), nn.Linear(40, 40)

    def forward(self, x, side=True):
        x = torch.tanh(self.first(x))
        return self.last(torch.tanh(self.middle(x) + (self.side(x) if side else 0)))


def batch(step, rank):
    generator = torch.Generator().manual_seed(100 * step + rank)
    return torch.randn(8, 10, generator=generator)


def backward(model, step, rank, **options):
    model.zero_grad()
    model(batch(step, rank), **options).square().mean().backward()


def grads_of(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def weights_of(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def wrapped(group, rule=None, **options):
    model = DistributedDataParallel(Net(), process_group=group, bucket_cap_mb=0.004, **options)
    pair = group.size() == 2  # the third process does not play then, so these two make the group
    private = dist.new_group([0, 1], use_local_synchronization=True) if pair else None
    return model, compress_ddp(model, rule, group=private) if rule else None


def train(group, rule, steps, start=0, weights=None):
    """Return the weights after each step and the bytes sent."""
    model, comm = wrapped(group, rule)
    if weights:
        model.module.load_state_dict(weights)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    seen = []
    for step in range(start, start + steps):
        backward(model, step, group.rank())
        optimizer.step()
        seen.append(weights_of(model.module))
    return seen, comm and comm.bytes_sent


def resume(group, make):
    """Stop after three steps; the new model has new buckets, in another order than those that were left."""
    rule, again = make(), make()
    seen, _ = train(group, rule, 3)
    again.load_state_dict(rule.state_dict())
    return train(group, again, 3, start=3, weights=seen[-1])[0]


def number_parameters(group):
    """Give each parameter a mean that is told by its name; a bucket taken for another would show."""
    buckets = []

    def number(grads, comm):
        buckets.append(list(grads))
        averaged = dense(grads, comm)
        for name, mean in averaged.mean.items():
            mean.fill_(len(name) + mean.numel())
        return averaged

    model, _ = wrapped(group, number)
    right = []
    for step in range(4):
        backward(model, step, group.rank())
        right += [(g == len(n) + g.numel()).all().item() for n, g in grads_of(model.module).items()]
    return buckets, right


def rest_a_branch(group):
    """Sum what was applied and what this worker's own gradients were; the branch rests in odd steps."""
    rule = ErrorFeedback(TopK(density=0.05))
    model, _ = wrapped(group, rule, find_unused_parameters=True)
    local = Net()
    applied, own = ({n: torch.zeros_like(p) for n, p in local.named_parameters()} for _ in range(2))
    for step in range(STEPS):
        for each, module, total in ((model, model.module, applied), (local, local, own)):
            backward(each, step, group.rank(), side=step % 2 == 0)
            for n, grad in grads_of(module).items():
                total[n] += grad
    return applied, own, rule.state_dict()["residuals"]


def accumulate(group):
    """Add up two batches without a message, then send with the third."""
    model, comm = wrapped(group, dense, gradient_as_bucket_view=True)
    with model.no_sync():
        for step in (0, 1):
            model(batch(step, group.rank())).square().mean().backward()
    silent = comm.bytes_sent
    model(batch(2, group.rank())).square().mean().backward()
    return silent, comm.bytes_sent, grads_of(model.module)


class EverySecond:
    """Leave every second step to DDP, and count how often it is called in the others."""

    def __init__(self):
        self.asked = self.calls = 0

    def leaves_step(self):
        self.asked += 1
        return self.asked % 2 == 0

    def __call__(self, grads, comm):
        self.calls += 1
        return dense(grads, comm)


def leave_steps(group):
    """Train with a rule that leaves every second step to DDP."""
    rule = EverySecond()
    seen, sent = train(group, rule, STEPS)
    return seen, sent, rule.asked, rule.calls


def send_messages(group):
    comm = Comm(group)
    mean = comm.mean([torch.full((2,), float(comm.rank)), torch.tensor(6e4, dtype=torch.float16)])
    half = comm.mean([torch.tensor(6e4, dtype=torch.float16)])
    mixed = [
        torch.tensor([comm.rank], dtype=torch.int32),
        torch.tensor(True),
        torch.tensor([1.5 + comm.rank]),
    ]
    rows = [[torch.full((rank,), float(rank)), torch.tensor(rank)] for rank in range(comm.size)]
    ragged = comm.gather(rows[comm.rank], [[torch.empty_like(t) for t in row] for row in rows])
    return mean, half, comm.gather(mixed), ragged, comm.bytes_sent, (comm.size, comm.rank)


def fail_on_one(group):
    """Let the first worker's compressor fail; return the error that this worker's backward raised."""

    def broken(grads, comm):
        if comm.rank == 0:
            raise KeyError("on the first worker alone")
        return dense(grads, comm)

    model, _ = wrapped(group, broken)
    try:
        backward(model, 0, group.rank())
    except RuntimeError as error:
        return str(error)
    return "no error"


def forget_the_group(group):
    try:
        compress_ddp(DistributedDataParallel(Net(), process_group=group), dense)
    except ValueError as error:
        return str(error)
    return "no error"


def play(group):
    seen = {name: train(group, make(), STEPS) for name, make in RULES.items()}
    seen["plain"] = train(group, None, STEPS)
    seen["resume"] = {name: resume(group, RULES[name]) for name in RULES if name.startswith("Error")}
    seen["names"], seen["unused"] = number_parameters(group), rest_a_branch(group)
    seen["left"] = leave_steps(group)
    seen["no_sync"], seen["messages"] = accumulate(group), send_messages(group)
    return seen


def work(rank, folder):
    """Play with all three workers, then with the first two of them, then let one fail."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=3)
    seen = {3: play(dist.group.WORLD)}
    pair = dist.new_group([0, 1])
    if rank < 2:
        seen[2] = play(pair)
        seen["part"] = forget_the_group(pair)
    seen["error"] = fail_on_one(dist.group.WORLD)
    torch.save(seen, f"{folder}/{rank}")


def run(folder):
    """Run the workers in processes of their own and return what each saw."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(rank, str(folder))) for rank in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        process.kill()
    return [torch.load(folder / str(rank)) for rank in range(3)]
