"""The same outer steps in PyTorch: a plain unroll, differentiated twice by its autograd."""

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]

from benchmarks.workloads import RECIPE, Workload
from dd_jax.parametrisations import PIXELS


def forward(network, theta, x):
    """The logits of a network by name, written out."""

    def conv(name, x, padding, stride=1):
        return F.conv2d(x, theta[f"{name}/kernel"], theta[f"{name}/bias"], stride, padding)

    if network == "lenet":
        for name, padding in (("Conv_0", 2), ("Conv_1", 0)):
            x = F.max_pool2d(F.relu(conv(name, x, padding)), 2)
    elif network == "alexnet":
        for i, (padding, stride, pools) in enumerate(((2, 4, True), (2, 1, True), (1, 1, False), (1, 1, False))):
            x = F.relu(conv(f"Conv_{i}", x, padding, stride))
            x = F.max_pool2d(x, 3, 2) if pools else x
        x = F.adaptive_avg_pool2d(F.max_pool2d(F.relu(conv("Conv_4", x, 1)), 3, 2), 6)
    elif network == "alexcifarnet":
        x = F.local_response_norm(F.max_pool2d(F.relu(conv("Conv_0", x, 2)), 3, 2, 1), 4, 0.001 / 9, 0.75, 1)
        x = F.max_pool2d(F.local_response_norm(F.relu(conv("Conv_1", x, 2)), 4, 0.001 / 9, 0.75, 1), 3, 2, 1)
    else:
        for i in range(3):
            scale, bias = (theta[f"InstanceNorm_{i}/{kind}"] for kind in ("scale", "bias"))
            x = F.group_norm(conv(f"Conv_{i}", x, 1), len(scale), scale, bias, 1e-5)
            x = F.avg_pool2d(F.relu(x), 2)
    x = x.flatten(1)
    *hidden, last = sorted({name.partition("/")[0] for name in theta if name.startswith("Dense")})
    for name in hidden:
        x = F.relu(F.linear(x, theta[f"{name}/kernel"], theta[f"{name}/bias"]))
    return F.linear(x, theta[f"{last}/kernel"], theta[f"{last}/bias"])


def weights_of(params, net: int):
    """Our weights in PyTorch's layout: [out, in, H, W] and [out, in], flattened images channels first."""
    theta = {}
    channels = params[max(layer for layer in params if layer.startswith("Conv"))]["kernel"].shape[-1]
    for layer, kinds in params.items():
        for kind, values in kinds.items():
            array = np.asarray(values[net])
            if layer == "Dense_0" and kind == "kernel":  # from H·W·C inputs to C·H·W
                side = int((array.shape[0] // channels) ** 0.5)
                array = array.reshape(side, side, channels, -1).transpose(2, 0, 1, 3).reshape(array.shape)
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
            theta[f"{layer}/{kind}"] = torch.tensor(np.ascontiguousarray(array), requires_grad=True)
    return theta


def images_of(images):
    """Channels first."""
    return torch.tensor(np.moveaxis(np.asarray(images), -1, -3).copy())


def step(workload: Workload, arguments, device: str = "cpu"):
    """A function of no arguments that makes one outer step on a device and returns the loss before it."""
    distilled, thetas, (real, real_labels) = arguments

    def there(array):
        return torch.as_tensor(np.array(array), device=device)

    images = images_of(distilled.images).to(device).requires_grad_()
    raw = there(PIXELS.init(distilled).step_sizes).requires_grad_()
    labels, targets, batch = there(distilled.labels), there(real_labels), images_of(real).to(device)
    weights = [weights_of(thetas["params"], n) for n in range(workload.nets)]
    nets = [{name: w.detach().to(device).requires_grad_() for name, w in theta.items()} for theta in weights]
    adam = torch.optim.Adam([images, raw], lr=RECIPE.learning_rate, betas=(RECIPE.b1, RECIPE.b2))

    def run() -> float:
        adam.zero_grad()
        total = 0.0
        step_sizes = F.softplus(raw)
        for number, theta in enumerate(nets):
            for t in range(workload.steps * workload.epochs):
                s = t % workload.steps
                loss = F.cross_entropy(forward(workload.network, theta, images[s]), labels[s])
                gradients = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
                moved = zip(theta.items(), gradients, strict=True)
                theta = {name: w - step_sizes[t] * g for (name, w), g in moved}
            loss = F.cross_entropy(forward(workload.network, theta, batch), targets) / workload.nets
            loss.backward(inputs=[images, raw], retain_graph=number + 1 < len(nets))
            total += loss.item()
        adam.step()
        return total

    return run
