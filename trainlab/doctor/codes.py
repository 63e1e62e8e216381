"""Every code with its sentence and its cure, causes before symptoms: the order is the order of the cards."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    # the loop
    "loss-without-graph": (
        "The loss is cut off from the weights, so no gradient can be computed.",
        "compute the loss from the model's output itself: no argmax, item(), detach(), numpy() or no_grad()\non the way, and no torch.tensor(loss)",
    ),
    "layers-not-registered": (
        "Layers in a plain list or dict are no part of parameters(): no optimizer trains them, no state_dict saves them.",
        "self.layers = nn.ModuleList(layers)      # ModuleDict, nn.Parameter likewise; then build the optimizer",
    ),
    "layer-made-in-forward": (
        "A layer that forward() builds starts anew at each call and is never trained.",
        "build the layer in __init__ and only call it in forward",
    ),
    "everything-frozen": (
        "No parameter requires a gradient, so there is nothing to train.",
        "for p in model.head.parameters(): p.requires_grad = True      # then build the optimizer",
    ),
    "optimizer-of-another-model": (
        "The optimizer updates parameters that this model does not have.",
        "optimizer = type(optimizer)(model.parameters(), lr=...)      # after the model has got its last form",
    ),
    "optimizer-holds-stale-parameters": (
        "The optimizer was built before a part of the model was replaced: the new part is never updated.",
        "replace the part first, then build the optimizer from model.parameters()",
    ),
    "parameters-not-in-optimizer": (
        "These parameters get gradients, and nobody ever updates them.",
        "give the optimizer all that is to be trained, or set requires_grad_(False) on what is not",
    ),
    "lora-cannot-move": (
        "With both LoRA matrices at 0 each one's gradient is 0, and they stay there for ever.",
        "nn.init.kaiming_uniform_(lora_A)      # and only lora_B at 0",
    ),
    "lora-not-trained": (
        "The adapter's matrices are what LoRA is to train, and they are left out.",
        "optimizer = AdamW([p for n, p in model.named_parameters() if 'lora' in n], lr=...)",
    ),
    "lora-base-unfrozen": (
        "LoRA trains the adapters beside a frozen base; here the base moves, too.",
        "for n, p in model.named_parameters(): p.requires_grad = 'lora' in n      # before the optimizer",
    ),
    "freeze-has-no-effect": (
        "PyTorch reads requires_grad of a parameter; another name, or a module's attribute, is just stored.",
        "for p in part.parameters(): p.requires_grad = False      # or part.requires_grad_(False)",
    ),
    "layer-shared-by-accident": (
        "[layer] * n repeats one layer n times: the places share their weights.",
        "nn.Sequential(*[make_layer() for _ in range(n)])",
    ),
    "gradient-cut": (
        "The layer is called, and the graph is cut behind it: its weights never learn.",
        "take away the detach(), .data, item() or no_grad() between this layer and the loss",
    ),
    "layer-unused": (
        "The layer is built and handed to the optimizer, but forward() does not use it (another one twice?).",
        "call it in forward, or remove it",
    ),
    "optimizer-rebuilt": (
        "A new optimizer forgets momentum and the averages of Adam at each step.",
        "build the optimizer once, before the loop",
    ),
    "step-missing": (
        "Gradients are computed, and the weights are never updated.",
        "optimizer.step()      # after backward()",
    ),
    "backward-missing": (
        "Without backward() there are no gradients to step with.",
        "loss.backward()      # before step()",
    ),
    "zero-grad-missing": (
        "backward() adds to what is in .grad: every update drags all earlier gradients along.",
        "optimizer.zero_grad()\nloss.backward()\noptimizer.step()",
    ),
    "zero-grad-before-step": (
        "The gradients are cleared after backward() and before step(): the update finds none.",
        "optimizer.zero_grad()\nloss.backward()\noptimizer.step()",
    ),
    "step-before-backward": (
        "The update comes before this batch's gradients: it uses none, or those of the last batch.",
        "optimizer.zero_grad()\nloss.backward()\noptimizer.step()",
    ),
    "clip-before-unscale": (
        "The gradients still carry the scaler's factor, so the clipping limit is far too small.",
        "scaler.scale(loss).backward()\nscaler.unscale_(optimizer)\nclip_grad_norm_(model.parameters(), 1.0)\nscaler.step(optimizer)\nscaler.update()",
    ),
    "clip-after-step": (
        "Clipping after the update changes nothing any more.",
        "clip between backward() and step()",
    ),
    "clip-before-backward": ("There are no gradients yet to clip.", "clip between backward() and step()"),
    "scaled-gradients-stepped": (
        "The loss was multiplied by the scaler, and the optimizer steps with gradients some 65,000 times too large.",
        "scaler.step(optimizer)\nscaler.update()      # in place of optimizer.step()",
    ),
    "loss-not-scaled": (
        "scaler.step() divides the gradients by a factor that the loss was never multiplied by.",
        "scaler.scale(loss).backward()",
    ),
    "scaler-never-updated": (
        "The scaler adapts its factor in update(), once a step.",
        "scaler.step(optimizer)\nscaler.update()",
    ),
    "scaler-without-gradients": (
        "The scaler found no gradient to look at.",
        "scaler.scale(loss).backward()      # before scaler.step",
    ),
    "float16-without-scaler": (
        "float16 has nothing between 0 and 6e-8: small gradients vanish without a scaler.",
        "use a GradScaler, or torch.bfloat16",
    ),
    "half-precision-weights": (
        "In float16 weights, small updates are rounded away and Adam's epsilon is 0: NaN follows.",
        "keep the weights in float32 and use torch.autocast in the forward pass",
    ),
    "accumulation-not-divided": (
        "The gradients of k batches are added, not averaged: the step is k times too long.",
        "(loss / k).backward()",
    ),
    "accumulation-tail-lost": (
        "The last micro-batches of an epoch make no full group, and their gradients are cleared unused.",
        "step at the end of the epoch as well, divided by the number in the group",
    ),
    "dropout-of-everything": (
        "Dropout with p=1 leaves nothing.",
        "p is the share that is dropped: 0.1 to 0.5",
    ),
    "head-frozen": (
        "The last layer is what a new task needs first.",
        "for p in model.head.parameters(): p.requires_grad = True",
    ),
    "eval-mode-in-training": (
        "Dropout and batch norm are at rest while training: after an evaluation the model was not put back.",
        "model.train()      # at the start of every step, or at the end of evaluate()",
    ),
    "same-batch-every-step": (
        "The step trains on one batch again and again, and not on what the loader gives.",
        "use the batch that is handed to the step; iter(loader) starts anew at each call",
    ),
    "data-changed": (
        "The step (or the data set) changes the stored data in place, a little more each time.",
        "x = x - mean      # in place of x -= mean; clone before writing",
    ),
    "climbs-the-loss": (
        "The steps go uphill: the sign of the loss or of the optimizer is wrong.",
        "minimise the loss itself: loss.backward(), maximize=False",
    ),
    "schedule-before-step": (
        "The rate is changed before the update that it was meant for: the first value is skipped.",
        "optimizer.step()\nscheduler.step()",
    ),
    # objective
    "shapes-broadcast": (
        "(N, 1) against (N,) broadcasts to N x N: every output is compared with every target, and the mean is learned.",
        "loss = criterion(output.squeeze(1), target)",
    ),
    "softmax-before-cross-entropy": (
        "CrossEntropyLoss applies log_softmax itself: a second softmax flattens the loss and its gradients.",
        "return the logits: no softmax in the model",
    ),
    "softmax-over-the-batch": (
        "The softmax goes over the rows of the batch and not over the classes.",
        "softmax(dim=1)",
    ),
    "log-softmax-twice": (
        "It changes nothing, since log_softmax twice is once; but it is not needed.",
        "NLLLoss, or no log_softmax",
    ),
    "sigmoid-twice": (
        "BCEWithLogitsLoss applies the sigmoid itself: with another one all probabilities lie between 0.5 and 0.73.",
        "return the logits: no sigmoid in the model",
    ),
    "log-probabilities-needed": (
        "This loss takes log-probabilities.",
        "output = F.log_softmax(logits, dim=-1)",
    ),
    "loss-needs-probabilities": (
        "BCELoss takes probabilities.",
        "criterion = nn.BCEWithLogitsLoss()      # takes logits",
    ),
    "one-class-output": (
        "A softmax over one output is always 1: the loss is 0 and nothing is learned.",
        "one output and BCEWithLogitsLoss, or one output for each class",
    ),
    "output-clamped": (
        "Behind a clamp that is hit there is no gradient.",
        "BCEWithLogitsLoss on logits, no clamp",
    ),
    "other-terms-dominate": (
        "A penalty (or a factor) is most of what is minimised.",
        "print each term of the loss: the data's own should lead",
    ),
    "relu-on-logits": (
        "A ReLU behind the last layer cuts all negative logits: half of what the layer says is lost.",
        "end with the linear layer",
    ),
    "bounded-logits": (
        "Logits in a narrow range cannot name a class with confidence: the loss has a floor.",
        "end with the linear layer",
    ),
    "output-cannot-reach-target": (
        "The last activation cannot give values like these targets.",
        "end with a linear layer, or scale the targets into the range",
    ),
    "exponential-twice": (
        "PoissonNLLLoss(log_input=True) takes the exponential itself.",
        "return the log of the rate, or set log_input=False",
    ),
    "rate-below-zero": (
        "With log_input=False the output is a rate, and a rate is above 0.",
        "log_input=True, or F.softplus(output)",
    ),
    "arguments-swapped": ("The order is criterion(output, target).", "loss = criterion(output, target)"),
    "target-out-of-range": (
        "The targets are outside what the loss or the output allows.",
        "number the classes from 0 to C - 1; scale probabilities to 0..1",
    ),
    "token-out-of-range": (
        "A token is larger than the embedding's table.",
        "num_embeddings = size of the vocabulary, unknown words mapped to one token",
    ),
    "targets-not-signs": (
        "This loss takes -1 and 1: a target of 0 gives no gradient, or a wrong one.",
        "target = 2 * target - 1",
    ),
    "target-no-distribution": (
        "Soft targets of cross-entropy are distributions; several labels at once are not.",
        "nn.BCEWithLogitsLoss() for several labels at once",
    ),
    "all-targets-ignored": (
        "No target counts, so the loss is 0 / 0.",
        "look at truncation, padding and ignore_index: print the targets of a batch",
    ),
    "class-weights-inverted": (
        "The weights favour the frequent classes; they are to lift the rare ones.",
        "weight = counts.sum() / (len(counts) * counts)      # pos_weight = negatives / positives",
    ),
    "class-weights-wrong": (
        "A class that weighs nothing (or less) is never learned.",
        "give each class a weight above 0",
    ),
    "loss-is-a-sum": (
        "A sum over the batch makes gradients as many times larger as the batch has rows.",
        "reduction='mean'",
    ),
    "ignore-index-hides-a-class": (
        "Targets of this class do not count in the loss.",
        "ignore_index=-100, unless this label is padding",
    ),
    # sequences
    "sees-the-future": (
        "The target of a position is the next token, and the model can see it.",
        "mask = torch.triu(torch.ones(T, T, dtype=torch.bool), 1)      # is_causal=True; no bidirectional layer",
    ),
    "target-not-shifted": (
        "Each target is the token that stands at the input of the same place: copying is enough.",
        "logits[:, :-1] against tokens[:, 1:]",
    ),
    "target-shifted-twice": (
        "The targets are shifted in the data and once more in the loss.",
        "shift once: logits[:, t] against token t + 1",
    ),
    "target-is-the-past": (
        "The shift goes the wrong way: the target is a token that was already read.",
        "logits[:, :-1] against tokens[:, 1:]",
    ),
    "mask-hides-everything": (
        "A softmax over nothing is NaN.",
        "torch.triu(..., diagonal=1): a position may see itself",
    ),
    "mask-inverted": ("In key_padding_mask True means: leave this out.", "key_padding_mask = tokens == pad"),
    "padding-in-loss": (
        "The loss counts padding: it falls by learning where the texts end.",
        "nn.CrossEntropyLoss(ignore_index=pad)",
    ),
    "padding-not-masked": (
        "How much padding follows a text changes what the model says of it.",
        "pass key_padding_mask, pool over the real tokens only, pack RNN inputs",
    ),
    "rows-mix": (
        "What the model says of a row depends on the other rows of the batch.",
        "look for view() in place of transpose(), batch_first, softmax or mean over dim 0",
    ),
    "dropout-in-evaluation": (
        "F.dropout drops in eval mode, too, unless it is told the mode.",
        "F.dropout(x, p, training=self.training)",
    ),
    "evaluation-by-chance": (
        "The same inputs give other outputs in eval mode.",
        "meant in a model that samples; else look for noise without `if self.training`",
    ),
    "frozen-batchnorm-learns": (
        "Frozen weights do not freeze running statistics: in train mode they go on moving.",
        "part.eval()      # after every model.train()",
    ),
    # data
    "loader-empty": (
        "The loader gives no batch: the loop runs over nothing.",
        "a smaller batch_size, or drop_last=False; look at the sampler",
    ),
    "loader-fails": ("The loader raises an error.", "try dataset[0] and the collate function by themselves"),
    "loader-drops-data": (
        "drop_last=True loses a large part of a small data set.",
        "drop_last=False, or a smaller batch",
    ),
    "not-finite-data": (
        "One NaN in a batch makes all gradients NaN.",
        "find the rows, and fill or drop them",
    ),
    "labels-shifted": (
        "Inputs and targets are out of step: each row has the target of a neighbour.",
        "cut and sort inputs and targets together; look for an index that is off by one",
    ),
    "labels-misaligned": (
        "Inputs and targets do not belong together: one was reordered without the other.",
        "order = torch.randperm(n); x, y = x[order], y[order]",
    ),
    "target-constant": (
        "With one and the same target there is nothing to learn.",
        "look at how targets are read, mapped and truncated",
    ),
    "class-missing-in-training": (
        "A class that is never trained on cannot be foretold.",
        "split(..., stratify=True), and look at the filter",
    ),
    "sampler-skips-a-class": (
        "The sampler never draws this class.",
        "look at the sampler's weights: one for each row, above 0",
    ),
    "sampler-repeats-rows": (
        "The sampler draws a few rows again and again.",
        "weights of the rows, not of the classes; num_samples = len(dataset)",
    ),
    "sampler-skips-rows": ("Many rows are never drawn.", "look at the sampler's indices"),
    "rows-repeated": (
        "Rows come several times in an epoch.",
        "each rank takes its own shard: sampler = DistributedSampler(dataset, n, rank)",
    ),
    "shards-overlap": (
        "Each rank is to read its own part, and this shard holds more.",
        "DistributedSampler(dataset, num_replicas=n, rank=rank)",
    ),
    "training-data-sorted": (
        "Batches of one class pull the model to and fro.",
        "DataLoader(..., shuffle=True)",
    ),
    "validation-is-train": (
        "The score is measured on the rows that are learned.",
        "give the loader of rows that were held out",
    ),
    "validation-in-training": (
        "Validation rows that were trained on flatter the score.",
        "split first, then copy, augment or oversample the training part only",
    ),
    "validation-prepared-differently": (
        "The model sees validation inputs that are not like those it learns from.",
        "apply the same preparation, with the training set's numbers, to both",
    ),
    "validation-scaled-by-itself": (
        "Each part was scaled by its own mean and deviation: the same value means two things.",
        "mean, std = train.mean(0), train.std(0)      # for both parts",
    ),
    "validation-is-random": (
        "Validation is augmented: its score changes from pass to pass.",
        "random transforms for training only",
    ),
    "class-shares-differ": ("The classes have other shares in validation.", "split(..., stratify=True)"),
    "target-in-inputs": ("A column of the inputs is the target itself.", "drop that column"),
    "parts-disagree": (
        "Each part can be learned, and what one teaches is wrong in the other: classes numbered differently, or columns in another order.",
        "one mapping of class names to numbers, one order of columns, for both parts",
    ),
    # rates and weights
    "clip-too-small": (
        "The limit is so small that the steps come to nothing.",
        "a limit near the usual norm: print clip_grad_norm_'s result",
    ),
    "learning-rate-too-large": (
        "The steps overshoot: with a smaller rate the loss falls, with this one it does not.",
        "lr ten to a hundred times smaller; see lr_range_test",
    ),
    "learning-rate-too-small": (
        "The weights hardly move: with a larger rate the same steps learn.",
        "lr a thousand times larger; see lr_range_test",
    ),
    "learning-rate-zero": ("With lr=0 no weight moves.", "set a rate above 0"),
    "learning-rate-negative": ("A negative rate climbs the loss.", "set a rate above 0"),
    "betas-swapped": (
        "betas=(mean, square): the first is usually 0.9, the second 0.999.",
        "betas=(0.9, 0.999)",
    ),
    "momentum-too-large": ("A momentum of 1 never forgets: the steps grow without end.", "momentum=0.9"),
    "rate-and-momentum-swapped": (
        "A rate near 1 and a momentum near 0 look exchanged.",
        "SGD(parameters, lr=0.01, momentum=0.9)",
    ),
    "weight-decay-too-large": ("Decay pulls harder than the loss: all weights go to 0.", "weight_decay=0.01"),
    "epsilon-large": ("Such an epsilon turns Adam into plain gradient descent.", "eps=1e-8"),
    "schedule-of-another-optimizer": (
        "The schedule changes the rate of an optimizer that is not used.",
        "scheduler = Scheduler(optimizer, ...)      # the one that steps",
    ),
    "schedule-stepped-per-batch": (
        "Settings in epochs, steps in batches: the rate is gone within the first epoch.",
        "scheduler.step() once an epoch, or settings multiplied by len(loader)",
    ),
    "schedule-stepped-per-epoch": (
        "Settings in batches, steps in epochs: the schedule hardly begins.",
        "scheduler.step() after each batch",
    ),
    "schedule-multiplies-twice": (
        "LambdaLR multiplies lr by the function's value: it is to give a factor, not a rate.",
        "lambda step: factor between 0 and 1",
    ),
    "schedule-grows": ("The rate grows without end.", "gamma below 1, eta_min below lr"),
    "schedule-falls-at-once": (
        "The rate is gone after a few steps.",
        "gamma nearer to 1, or a longer step_size",
    ),
    "schedule-too-short": (
        "The schedule was built for fewer steps than are made.",
        "total_steps = epochs * len(loader)",
    ),
    "plateau-mode": ("mode='max' waits for the metric to rise, and it is given a loss.", "mode='min'"),
    "symmetric-initialisation": (
        "Units that start equal get equal gradients and stay equal: the layer has one unit.",
        "leave PyTorch's initialisation, or nn.init.kaiming_normal_(weight)",
    ),
    "initialisation-too-large": (
        "Weights this large saturate what follows, and the first loss is far beyond a constant's.",
        "nn.init.kaiming_normal_(weight): deviation sqrt(2 / inputs)",
    ),
    "initialisation-too-small": ("Signals shrink layer by layer.", "nn.init.kaiming_normal_(weight)"),
    "inputs-not-scaled": (
        "Initialisation and rates are made for inputs of about 1.",
        "(x - train_mean) / train_std",
    ),
    "graph-used-twice": (
        "The graph of an earlier step is still held: a hidden state or a loss was kept.",
        "hidden = hidden.detach()      # between steps",
    ),
    "changed-in-place": (
        "A value that backward needs was overwritten.",
        "x = x + 1      # in place of x += 1",
    ),
    "shapes-do-not-fit": ("Two shapes do not fit.", "print the shapes before the line that fails"),
    "dtype-does-not-fit": ("Two dtypes do not fit.", "targets of classes are int64, of values float32"),
    "batchnorm-of-one-row": (
        "Batch norm cannot take a mean over one row.",
        "drop_last=True, or a batch size that leaves no single row",
    ),
    "step-fails": ("The step raises an error.", "read its last line"),
    # evaluation
    "evaluation-in-train-mode": (
        "Dropout and batch norm work while the score is measured.",
        "model.eval()      # with torch.no_grad():",
    ),
    "evaluation-changes-the-model": (
        "Evaluating must leave the weights as they are.",
        "no optimizer.step() in evaluate()",
    ),
    "evaluates-something-else": (
        "The score does not come from the loader (or the model) that was given.",
        "for x, y in loader: ...      # the argument, not a global name",
    ),
    "mean-of-batch-means": (
        "A small last batch gets the vote of a full one.",
        "sum over rows, divided by the number of rows",
    ),
    "metric-wrong": (
        "The number is not what it claims to be.",
        "(logits.argmax(1) == y).float().sum() / number of rows",
    ),
    "evaluation-fails": ("eval_fn raises an error.", "read its last line"),
    # symptoms
    "no-activation": (
        "Linear layers behind each other are one linear layer: an activation does not work, or is missing.",
        "x = F.relu(x)      # the result is returned, not written into x",
    ),
    "signal-dies": (
        "The gradient shrinks layer by layer and does not arrive at the first.",
        "ReLU in place of sigmoids, kaiming initialisation, batch norm, shortcuts",
    ),
    "gradient-all-zero": (
        "The gradient is exactly 0: dead units, saturation, or a product with 0.",
        "look at activation_stats and the initialisation",
    ),
    "dead-units": (
        "A unit that is 0 for every row gets no gradient and never comes back.",
        "a smaller rate, no large negative bias, LeakyReLU",
    ),
    "outputs-ignore-inputs": (
        "The model says the same whatever it is shown.",
        "overfit_one_batch, then gradient_flow: where does the signal end?",
    ),
    "loss-not-finite": (
        "NaN or infinity spreads to all weights.",
        "look at the first layer with it: log(0), sqrt(0), 0/0, a rate too large",
    ),
    "gradient-not-finite": (
        "The gradient of sqrt at 0, of a norm at 0, or 0 * inf is NaN.",
        "add an epsilon inside the root",
    ),
    "first-loss-high": (
        "A fresh model that knows nothing should lose about as much as a constant.",
        "look at the scale of inputs and weights",
    ),
    "no-relation-found": (
        "Neither linear regression nor neighbours find a relation: perhaps there is none.",
        "shuffle check: do inputs and targets belong together?",
    ),
    "evaluates-a-part": ("Not all batches are read.", "read the loader to its end"),
    "evaluation-with-gradients": ("Building a graph costs memory and time.", "with torch.no_grad():"),
    "metric-unknown": ("A share lies between 0 and 1.", "divide hits by the number of rows"),
}

SYMPTOMS = {
    *("gradient-all-zero", "dead-units", "outputs-ignore-inputs", "loss-not-finite", "gradient-not-finite"),
    *("first-loss-high", "no-relation-found", "other-terms-dominate"),
}
# a code on the left explains those on the right as well
EXPLAINS: dict[str, set[str]] = {
    "zero-grad-missing": {"accumulation-not-divided", "learning-rate-too-large"},
    "loss-is-a-sum": {"learning-rate-too-large"},
    "inputs-not-scaled": {"learning-rate-too-large"},
    "initialisation-too-large": {"learning-rate-too-large"},
    "climbs-the-loss": {"learning-rate-too-large"},
    "scaled-gradients-stepped": {"learning-rate-too-large"},
    "rate-and-momentum-swapped": {"learning-rate-too-large"},
    "momentum-too-large": {"learning-rate-too-large"},
    "loss-not-scaled": {"learning-rate-too-small"},
    "clip-before-unscale": {"learning-rate-too-small"},
    "step-missing": {"learning-rate-too-small"},
    "zero-grad-before-step": {"learning-rate-too-small"},
    "validation-is-train": {"metric-wrong"},
    "layers-not-registered": {"gradient-cut", "layer-unused"},
    "lora-cannot-move": {"symmetric-initialisation"},
    "softmax-over-the-batch": {"rows-mix"},
    "evaluation-in-train-mode": {"mean-of-batch-means", "metric-wrong"},
    "evaluates-something-else": {"metric-wrong"},
    "metric-wrong": {"mean-of-batch-means"},
    "sees-the-future": {"rows-mix"},
    "labels-shifted": {"labels-misaligned"},
    "target-constant": {"training-data-sorted"},
    "rows-repeated": {"training-data-sorted"},
    "layer-shared-by-accident": {"layer-unused"},
    "eval-mode-in-training": set(),
}
