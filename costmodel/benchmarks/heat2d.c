/* One explicit step of heat on a plane; the border becomes 0. */
#ifndef DATA_TYPE
#define DATA_TYPE double
#endif
#define H 12
#define W 14

void heat2d(DATA_TYPE alpha, DATA_TYPE beta, const DATA_TYPE image[H][W], DATA_TYPE out[H][W]) {
  for (int y = 0; y < H; y++)
    for (int x = 0; x < W; x++)
      out[y][x] = 0;
  for (int y = 1; y < H - 1; y++)
    for (int x = 1; x < W - 1; x++)
      out[y][x] = alpha * image[y][x] +
                  beta * (image[y][x + 1] + image[y][x - 1] + image[y + 1][x] + image[y - 1][x]);
}
