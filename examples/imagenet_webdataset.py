"""Sharded ImageNet with torchvision, the transforms running in the gateway.

Start a gateway first, or let this script run one:

    shardgate demo                                    # makes ./demo-output/sharded-imagenet, once
    python examples/imagenet_webdataset.py            # embedded gateway over that folder
    SHARDGATE_ENDPOINT=http://host:51080 python examples/imagenet_webdataset.py
"""

import os
from contextlib import nullcontext

import webdataset as wds
from torchvision import transforms

import shardgate
from shardgate import Client, WDTransform, display_loader_images, display_shard_images

BUCKET = "gcp://sharded-imagenet"

normalize = transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
train_transform = transforms.Compose(
    [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor(), normalize]
)
val_transform = transforms.Compose(
    [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), normalize]
)
to_tensor = transforms.Compose([transforms.ToTensor()])


def wd_transform(sample):
    sample["npy"] = train_transform(sample.pop("jpg")).permute(1, 2, 0).numpy().astype("float32")
    return sample


def wd_val_transform(sample):
    sample["npy"] = val_transform(sample.pop("jpg")).permute(1, 2, 0).numpy().astype("float32")
    return sample


def loader_of(urls):
    dataset = (
        wds.WebDataset(urls, shardshuffle=False, handler=wds.handlers.warn_and_continue)
        .decode("rgb")
        .to_tuple("npy cls", handler=wds.handlers.warn_and_continue)
        .map_tuple(to_tensor, int)
    )
    return wds.WebLoader(dataset, batch_size=64, shuffle=False, num_workers=1)


def gateway():
    if "SHARDGATE_ENDPOINT" in os.environ:
        return nullcontext(Client())
    return shardgate.embedded({BUCKET: "demo-output/sharded-imagenet"})


def main():
    with gateway() as client:
        display_shard_images(client, BUCKET, "imagenet-train-000000.tar", objects=4, save="originals.png")

        train_etl = WDTransform(client, wd_transform, transform_name="imagenet-train", verbose=True)
        train_url = client.object_url(BUCKET, "imagenet-train-000000.tar", transform_id=train_etl.uuid)
        display_loader_images(loader_of(train_url), objects=4, save="train.png")

        val_etl = WDTransform(client, wd_val_transform, transform_name="imagenet-val", verbose=True)
        val_urls = client.expand_object_urls(
            BUCKET, transform_id=val_etl.uuid, template="imagenet-val-{000000..000005}.tar"
        )
        samples = sum(len(images) for images, _ in loader_of(val_urls))
        print(f"{samples} validation samples from {len(val_urls)} shards")


if __name__ == "__main__":
    main()
