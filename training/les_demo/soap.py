"""SOAP for the networks of the demonstration models.

Adam in the eigenbasis of Shampoo's preconditioner: Vyas et al., arXiv:2409.11321 (2024).
"""

import torch
from pytorch_optimizer import SOAP
from weights import tensors_of


class MatrixSOAP(SOAP):
    """SOAP on matrices in the memory of a model's weights, most of which mace keeps as vectors."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.weights = list(model.parameters())
        self.matrices = [
            torch.nn.Parameter(weight.squeeze()) for _, weight in tensors_of(model).values()
        ]
        super().__init__(self.matrices, weight_decay=0.0)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for weight in self.weights:
            weight.grad = None

    def step(self, closure: None = None) -> None:
        for matrix, weight in zip(self.matrices, self.weights, strict=True):
            matrix.grad = weight.grad.view_as(matrix)
        super().step(closure)
