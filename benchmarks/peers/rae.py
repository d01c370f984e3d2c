"""The RAE's training step as it is published, written from the facts: every pass made anew, one model frozen in turn.

The order of its passes is that of the published code: an image's codes once, those of a reconstruction once for the
bound and once for the embeddings, and in the decoder's step all images decoded again. Of networks it takes brainuad's.
"""

import copy
import math

import torch
from torch import Tensor, nn
from torch.optim import Adam


class Naive:
    """Encoder, decoder and the two updates by a batch; scale s, betas 0.5, 1 and 128."""

    def __init__(self, model: nn.Module, lr: float):
        self.encoder, self.decoder = copy.deepcopy(model.encoder), copy.deepcopy(model.decoder)
        self.optimizers = [Adam(part.parameters(), lr) for part in (self.encoder, self.decoder)]
        self.s, self.gamma = 1 / math.prod(model.size), model.reconstruct_term

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Mean, logarithm of the variance, and the features of each level as vectors."""
        mean, logvar, levels = self.encoder(x)
        return mean, logvar, [level.flatten(1) for level in levels]

    def sample(self, mean: Tensor, logvar: Tensor) -> Tensor:
        """Random z, (b, latent)."""
        return mean + torch.randn_like(mean) * (0.5 * logvar).exp()

    def error(self, a: Tensor, b: Tensor) -> Tensor:
        """Sum of squares over an image, (b,)."""
        return ((a - b) ** 2).sum(dim=tuple(range(1, a.ndim)))

    def divergence(self, mean: Tensor, logvar: Tensor) -> Tensor:
        """From the standard normal distribution, (b,)."""
        return (-0.5 * (1 + logvar - mean**2 - logvar.exp())).sum(dim=1)

    def step(self, x: Tensor) -> tuple[float, float]:
        """One update of the encoder and one of the decoder; their losses."""
        self.learn(self.encoder)
        mean, logvar, levels = self.encode(x)
        z, eps = self.sample(mean, logvar), torch.randn_like(mean)
        first = self.encoder_step(x, z, eps, mean, logvar, levels)
        self.learn(self.decoder)
        return first, self.decoder_step(x, z.detach(), eps)

    def learn(self, part: nn.Module) -> None:
        """Freeze the other part."""
        for module in (self.encoder, self.decoder):
            module.requires_grad_(module is part)

    def update(self, loss: Tensor, index: int) -> float:
        """One step of one of the optimisers."""
        self.optimizers[index].zero_grad()
        loss.backward()
        self.optimizers[index].step()
        return loss.item()

    def encoder_step(
        self, x: Tensor, z: Tensor, eps: Tensor, mean: Tensor, logvar: Tensor, levels: list[Tensor]
    ) -> float:
        """The encoder's objective: bound of x, exponentials of those of decoded images, embeddings."""
        r, fake = self.decoder(z), self.decoder(eps)
        exponentials = []
        for target, source in ((r, r.detach()), (fake, fake.detach())):
            code = self.encode(source)[:2]
            again = self.decoder(self.sample(*code))
            inner = 0.5 * self.error(target, again) + 128 * self.divergence(*code)
            exponentials.append((-2 * self.s * inner).exp().mean())
        embedding = 0
        for a, b in zip(levels, self.encode(r.detach())[2], strict=True):
            cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
            embedding = embedding + 0.5 * ((a - b) ** 2).mean() + (1 - cosine).mean()
        real = self.s * (0.5 * self.error(x, r).mean() + self.divergence(mean, logvar).mean())
        return self.update(real + 0.25 * sum(exponentials) + 0.005 * embedding, 0)

    def decoder_step(self, x: Tensor, z: Tensor, eps: Tensor) -> float:
        """The decoder's objective: reconstruct x, and decode to what the encoder takes for real."""
        r, fake = self.decoder(z), self.decoder(eps)
        loss = 0.5 * self.error(x, r).mean()
        codes = [self.encode(image)[:2] for image in (r, fake)]
        for image, code in zip((r, fake), codes, strict=True):
            loss = loss + 0.5 * self.divergence(*code).mean()
            if self.gamma:
                again = self.decoder(self.sample(*code).detach())
                loss = loss + self.gamma * 0.5 * 0.5 * self.error(image.detach(), again).mean()
        return self.update(self.s * loss, 1)
