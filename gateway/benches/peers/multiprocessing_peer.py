"""A task that does nothing, over two workers of multiprocessing: each input and each result on its own, as it is ready."""

import multiprocessing

import measure


def nothing(_):
    pass


def main():
    length = measure.length()
    with multiprocessing.Pool(2) as pool:
        # It takes all inputs at once, however slowly results are taken: no more of them than there is time for.
        results = pool.imap_unordered(nothing, range(int(length * 400_000) + 1_000))
        measure.report(results, length)
        pool.terminate()


if __name__ == "__main__":
    main()
